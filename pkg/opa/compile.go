package opa

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/mcpgw/mcpgw/policies"
)

// Options say what an engine is made of.
type Options struct {
	Modules []File // Rego; tests among them are passed over. The shipped modules come by themselves
	Data    []File // JSON or YAML, merged to one document

	// Entrypoint is the rule that gives the ruling; empty means the shipped main module, which combines the rules of package
	// mcpgw.policy. Another one gives an object {"effect": "allow" | "deny" | "ask", "reasons": [{"rule": …, "message": …}]}, the
	// reasons as array or set, and may leave them out. Lists then show all that it does not refuse outright.
	Entrypoint string

	Timeout      time.Duration // of one evaluation; 0 means 1 s
	CacheEntries int           // rulings to remember, and as many answers about lists; 0 means 100,000
	Coverage     *Coverage     // notes which rules hold, which costs time: for tests; nil for none
}

// mainEntry is the shipped entry point.
const mainEntry = "data.mcpgw.main.ruling"

const (
	defaultTimeout = time.Second
	defaultEntries = 100_000
)

// Load compiles a policy. The error is [Faults]: all that is wrong, as far as one fault does not hide another. The engine keeps
// nothing of the options.
func Load(opts Options) (*Engine, error) {
	e := &Engine{timeout: opts.Timeout, identity: new(byte), coverage: opts.Coverage}
	if e.timeout <= 0 {
		e.timeout = defaultTimeout
	}
	entry, faults := entryRef(opts.Entrypoint)
	data, more := mergeData(opts.Data)
	faults = append(faults, more...)
	e.store = inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	ctx := context.Background()
	var err error
	// One transaction serves all evaluations for the engine's life: nobody writes to this store.
	if e.txn, err = e.store.NewTransaction(ctx); err != nil {
		return nil, Faults{{Message: err.Error()}}
	}

	ship, err := shipped()
	if err != nil {
		return nil, Faults{{Message: err.Error()}}
	}
	modules, own, more := parse(ship, opts.Modules, false)
	faults = append(faults, more...)
	e.logRules, more = logRules(opts.Modules)
	if faults = append(faults, more...); len(faults) > 0 {
		faults.sort()
		return nil, faults
	}
	e.compiler, faults = compile(modules, storage.NonEmpty(ctx, e.store, e.txn))
	if len(faults) == 0 {
		faults = checkCompiled(e.compiler, own)
	}
	if len(faults) == 0 && len(e.compiler.GetRulesExact(entry)) == 0 {
		faults = append(faults, Fault{Message: fmt.Sprintf("the entry point %s is no rule", entry)})
	}
	if len(faults) > 0 {
		faults.sort()
		return nil, faults
	}

	all := walk(e.compiler, entry)
	e.selection, e.paths = choose(all), all.paths
	for _, path := range e.selection.volatile {
		e.unremembered = append(e.unremembered, "input."+path)
	}
	for _, b := range all.unstable {
		e.unremembered = append(e.unremembered, b.Name)
	}
	e.reusable = len(e.unremembered) == 0
	e.main = entry.String() == mainEntry
	e.warnings = warnings(e.compiler, all, own, e.main)
	var runtime []Warning
	e.labels, runtime = labelsOf(e.compiler, all, e.main)
	e.warnings = append(e.warnings, runtime...)
	slices.SortStableFunc(e.warnings, func(a, b Warning) int { return strings.Compare(a.String(), b.String()) })
	e.revision = revision(entry, ship, opts)
	if err := e.prepare(ctx, entry); err != nil {
		return nil, faultsOf(err, "")
	}

	entries := opts.CacheEntries
	if entries <= 0 {
		entries = defaultEntries
	}
	if e.rulings, err = otter.New(&otter.Options[[32]byte, *policyRuling]{MaximumSize: entries}); err != nil {
		return nil, Faults{{Message: err.Error()}}
	}
	if e.views, err = otter.New(&otter.Options[[32]byte, bool]{MaximumSize: entries}); err != nil {
		return nil, Faults{{Message: err.Error()}}
	}
	return e, nil
}

// entryRef reads an entry point, as data.a.b or as a/b.
func entryRef(s string) (ast.Ref, Faults) {
	if s == "" {
		s = mainEntry
	}
	if !strings.HasPrefix(s, "data.") {
		s = "data." + strings.ReplaceAll(strings.Trim(s, "/"), "/", ".")
	}
	ref, err := ast.ParseRef(s)
	if err != nil || len(ref) < 3 || !ref.IsGround() {
		return nil, Faults{{Message: fmt.Sprintf("the entry point %s is no reference to a rule", s), Remedy: "write data.package.rule"}}
	}
	return ref, nil
}

// parse reads modules and checks what can be checked before they are compiled. own names those that are not shipped.
func parse(ship, user []File, tests bool) (modules map[string]*ast.Module, own map[string]bool, faults Faults) {
	modules, own = map[string]*ast.Module{}, map[string]bool{}
	var ours []*ast.Module
	for i, f := range slices.Concat(ship, user) {
		if isTest(f.Name) && !tests {
			continue
		}
		m, err := ast.ParseModuleWithOpts(f.Name, string(f.Text), ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
		switch {
		case err != nil:
			faults = append(faults, faultsOf(err, f.Name)...)
			continue
		case m == nil:
			continue // an empty file
		case i >= len(ship) && aside(m):
			continue // see logrules.go
		}
		if i >= len(ship) {
			if modules[f.Name] != nil {
				faults = append(faults, Fault{File: f.Name, Message: "there are two modules of this name"})
			}
			own[f.Name] = true
			if !isTest(f.Name) {
				ours = append(ours, m)
			}
		}
		modules[f.Name] = m
	}
	return modules, own, append(faults, checkParsed(ours)...)
}

// newCompiler is strict, and knows what input looks like: a schema at the root of the set holds for every module. more are functions
// beside OPA's own.
func newCompiler(more ...*ast.Builtin) (*ast.Compiler, error) {
	var schema any
	if err := json.Unmarshal(policies.InputSchema, &schema); err != nil {
		return nil, fmt.Errorf("input.schema.json: %w", err)
	}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, schema)
	can := ast.CapabilitiesForThisVersion()
	can.Builtins = append(can.Builtins, more...)
	return ast.NewCompiler().
		WithCapabilities(can).
		WithSchemas(set).
		WithUseTypeCheckAnnotations(true).
		WithStrict(true).
		SetErrorLimit(0), nil // all faults at once
}

func compile(modules map[string]*ast.Module, conflicts func([]string) (bool, error), more ...*ast.Builtin) (*ast.Compiler, Faults) {
	c, err := newCompiler(more...)
	if err != nil {
		return nil, Faults{{Message: err.Error()}}
	}
	if c.WithPathConflictsCheck(conflicts).Compile(modules); c.Failed() {
		return nil, faultsOf(c.Errors, "")
	}
	return c, nil
}

// revision identifies everything that an answer depends on.
func revision(entry ast.Ref, ship []File, opts Options) string {
	h := sha256.New()
	write := func(s string) { fmt.Fprintf(h, "%d:%s", len(s), s) }
	write(entry.String())
	for _, group := range [][]File{ship, opts.Modules, opts.Data} {
		sorted := slices.SortedFunc(slices.Values(group), func(a, b File) int { return strings.Compare(a.Name, b.Name) })
		for _, f := range sorted {
			if !isTest(f.Name) {
				write(f.Name)
				write(string(f.Text))
			}
		}
		write("")
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// prepare compiles the queries, and finds which of them depend on what is unknown in lists.
func (e *Engine) prepare(ctx context.Context, entry ast.Ref) (err error) {
	full := func(q **question, plain, partial string, on ast.Ref) {
		if err != nil {
			return
		}
		r := walk(e.compiler, on)
		n := question{}
		n.unknown[withArguments] = r.overlaps(fieldPaths[arguments]...)
		n.unknown[withURI] = n.unknown[withArguments] || r.overlaps(fieldPaths[resourceURI]...)
		if n.body, err = e.compiler.QueryCompiler().Compile(ast.MustParseBody(plain)); err != nil {
			return
		}
		if n.unknown[withURI] {
			// Not strict: it reaches built-in calls that fail, and that a call with arguments need not reach.
			var p rego.PreparedPartialQuery
			p, err = rego.New(rego.Compiler(e.compiler), rego.Store(e.store), rego.Transaction(e.txn), rego.Query(partial)).PrepareForPartial(ctx)
			n.partial = &p
		}
		*q = &n
	}
	full(&e.ruling, "x = "+entry.String(), entry.String()+`.effect != "deny"`, entry)
	if e.main {
		allow, deny, ask := ast.MustParseRef("data.mcpgw.policy.allow"), ast.MustParseRef("data.mcpgw.main.any_deny"), ast.MustParseRef("data.mcpgw.main.any_ask")
		// "== true" is exact: with it, a default of false is no way to a yes. Denials are asked for through a rule that is true or
		// undefined: "deny[_]" never comes back as certain.
		full(&e.allow, allow.String()+" == true", allow.String()+" == true", allow)
		full(&e.deny, deny.String(), deny.String(), deny)
		full(&e.ask, ask.String(), ask.String(), ask)
	}
	return err
}
