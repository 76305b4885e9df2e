package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
	"github.com/mcpgw/mcpgw/pkg/server"
)

// explainFlags describe a call that nobody makes.
type explainFlags struct {
	as, issuer, client, tenant, kind string
	roles, scopes, claims, labels    []string
	endpoint, era                    string

	offline       bool
	catalog       string
	server        string
	annotations   []string
	tags          []string
	configuration string
}

func explainCommand() *cobra.Command {
	var at adminFlags
	var out output
	var f explainFlags
	c := &cobra.Command{
		Use:   "explain {ID | --as USER METHOD NAME [ARGUMENTS]}",
		Short: "Tell why a call was or would be allowed or refused: rules, conditions, values",
		Long: `Explain shows a ruling, the rules that held, the rules that came near with the one condition that failed, and the values
they read. Values under names like password or token, and whatever repeats them, are masked.

With an ID it explains a ruling of the running gateway, by the policy that ruled then. The ID is "decision_id" in a refusal's
error.data and in the log, "mcpgw.decision_id" in a trace, "com.github.mcpgw/decision_id" in the _meta of a refusal that is told as a
result. How many are kept, and how long, is policy.explain; none outlives a restart.

With --as it explains a call that nobody makes. USER is the id of an API key of the configuration, or "anonymous"; with --role, --scope,
--tenant, --claim, --issuer, --client or --type it is the subject of a token with these. NAME is what a client at the endpoint calls the
item, or server/name. ARGUMENTS is a JSON object; "-" reads it from standard input.

With --offline no gateway is asked: the policy is that of the configuration, and the item comes from a saved catalog (--catalog), or is
described with --server and --annotation.

Asking a gateway needs an operator's key that may explain (admin.operators), or its unix socket.`,
		Example: `  mcpgw explain 5QK3V4H2ZJ7M6T2XHJ3RDLBOEC
  mcpgw explain --as reader tools/call git_git_log '{"max_count": 51}'
  mcpgw explain --as ann --role writer --claim org=acme tools/call git/git_commit '{"message": "x"}' --output json
  mcpgw explain --offline --as reader --server git --annotation readOnlyHint=true tools/call git_log '{"max_count": 5}'`,
		Args: between(1, 3),
		RunE: func(c *cobra.Command, args []string) error {
			f.configuration = at.file
			r, err := explain(c, &at, &f, args)
			if err != nil {
				return err
			}
			return out.print(c.OutOrStdout(), r, func(w io.Writer) error { return printExplanation(w, r) })
		},
	}
	at.flags(c)
	at.keyFlag(c)
	flags := c.Flags()
	flags.StringVar(&f.as, "as", "", "who calls: the id of an API key, anonymous, or the subject of a token that the flags below describe")
	flags.StringArrayVar(&f.roles, "role", nil, "a role of the caller; may be repeated")
	flags.StringArrayVar(&f.scopes, "scope", nil, "a scope of the caller's token; may be repeated")
	flags.StringVar(&f.tenant, "tenant", "", "the caller's tenant")
	flags.StringArrayVar(&f.claims, "claim", nil, "a claim of the caller's token, NAME=VALUE; VALUE is JSON, else text; may be repeated")
	flags.StringVar(&f.issuer, "issuer", "", "the token's issuer")
	flags.StringVar(&f.client, "client", "", "the OAuth client that acts for the caller")
	flags.StringVar(&f.kind, "type", "", "what the caller is: user or service")
	flags.StringVar(&f.endpoint, "endpoint", "", "path or name of the endpoint; else the first that has the name")
	flags.StringVar(&f.era, "era", "", "modern or legacy; else modern where the server speaks it")
	flags.StringArrayVar(&f.labels, "label", nil, "a label of the caller's session; may be repeated")
	flags.BoolVar(&f.offline, "offline", false, "ask no gateway: take policy and endpoints from --config")
	flags.StringVar(&f.catalog, "catalog", "", "with --offline: a catalog that mcpgw catalog --save wrote, which has the item")
	flags.StringVar(&f.server, "server", "", "with --offline: the server of an item that no catalog describes")
	flags.StringArrayVar(&f.annotations, "annotation", nil, "with --server: an annotation of the item, NAME=VALUE; may be repeated")
	flags.StringArrayVar(&f.tags, "tag", nil, "with --server: a tag of the item; may be repeated")
	out.flag(c)
	return c
}

func explain(c *cobra.Command, at *adminFlags, f *explainFlags, args []string) (*server.ExplainReport, error) {
	described := len(f.catalog)+len(f.server)+len(f.annotations)+len(f.tags) > 0
	r := &server.ExplainReport{}
	switch {
	case described && !f.offline:
		return nil, errors.New("--catalog, --server, --annotation and --tag go with --offline: a running gateway knows its items")
	case f.as == "" && len(args) == 1:
		if f.offline {
			return nil, errors.New("a decision id is known to the gateway that ruled: leave --offline out")
		}
		return r, at.ask(c.Context(), http.MethodGet, "/explain/"+url.PathEscape(args[0]), nil, r)
	case f.as == "":
		return nil, errors.New("who calls? name an API key of the configuration with --as, or describe the caller: --as NAME --role ROLE")
	case len(args) == 1:
		return nil, errors.New("what is called? write METHOD and NAME: mcpgw explain --as " + f.as + " tools/call NAME '{…}'")
	}
	req, err := f.request(c.InOrStdin(), args)
	if err != nil {
		return nil, err
	}
	if f.offline {
		return f.explainOffline(c, req)
	}
	return r, at.ask(c.Context(), http.MethodPost, "/explain", req, r)
}

// maxArguments bounds what is read from standard input.
const maxArguments = 4 << 20

func (f *explainFlags) request(in io.Reader, args []string) (*server.ExplainRequest, error) {
	req := &server.ExplainRequest{As: f.as, Method: args[0], Name: args[1], Endpoint: f.endpoint, Era: f.era, Labels: f.labels}
	if len(args) == 3 {
		text := []byte(args[2])
		if args[2] == "-" {
			var err error
			if text, err = io.ReadAll(io.LimitReader(in, maxArguments+1)); err != nil {
				return nil, err
			}
			if len(text) > maxArguments {
				return nil, fmt.Errorf("the arguments have more than %d bytes", maxArguments)
			}
		}
		if !json.Valid(text) || !strings.HasPrefix(strings.TrimSpace(string(text)), "{") {
			return nil, errors.New(`the arguments are no JSON object: write them as '{"max_count": 5}'`)
		}
		req.Arguments = text
	}
	if len(f.roles)+len(f.scopes)+len(f.claims)+len(f.tenant)+len(f.issuer)+len(f.client)+len(f.kind) > 0 {
		who := &server.SupposedCaller{Type: f.kind, Issuer: f.issuer, Client: f.client, Tenant: f.tenant, Roles: f.roles, Scopes: f.scopes}
		claims, err := pairs("--claim", f.claims)
		if err != nil {
			return nil, err
		}
		if len(claims) > 0 {
			if who.Claims, err = json.Marshal(claims); err != nil {
				return nil, err
			}
		}
		req.Caller = who
	}
	return req, nil
}

// pairs reads NAME=VALUE flags; what is no JSON is text.
func pairs(flag string, list []string) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for _, p := range list {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%s wants NAME=VALUE", flag) // the text may hold a secret
		}
		out[name] = json.RawMessage(value)
		if !json.Valid([]byte(value)) {
			text, err := json.Marshal(value)
			if err != nil {
				return nil, err
			}
			out[name] = text
		}
	}
	return out, nil
}

func (f *explainFlags) explainOffline(c *cobra.Command, req *server.ExplainRequest) (*server.ExplainReport, error) {
	conf, err := config.Load(f.configuration)
	if err != nil {
		return nil, err
	}
	var items []*catalog.Item
	switch {
	case f.catalog != "" && f.server != "":
		return nil, errors.New("--catalog and --server: name one of them")
	case f.catalog != "":
		if items, err = savedItems(f.catalog); err != nil {
			return nil, err
		}
	case f.server != "":
		kind := catalog.Tool
		switch req.Method {
		case "resources/read":
			kind = catalog.Resource
		case "prompts/get":
			kind = catalog.Prompt
		}
		annotations, err := pairs("--annotation", f.annotations)
		if err != nil {
			return nil, err
		}
		item, err := server.SupposedItem(conf, f.server, kind, req.Name, annotations, f.tags)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	default:
		return nil, errors.New("--offline wants the item: a saved catalog with --catalog FILE, or --server NAME and its --annotation NAME=VALUE")
	}
	return server.ExplainOffline(c.Context(), conf, items, req)
}

// savedItems are all items of a saved catalog.
func savedItems(file string) ([]*catalog.Item, error) {
	saved, err := readCatalog(file)
	if err != nil {
		return nil, err
	}
	var items []*catalog.Item
	for _, srv := range saved.Servers() {
		for _, kind := range catalog.Kinds {
			for _, name := range saved.Names(srv, kind) {
				items = append(items, saved.Find(srv, kind, name))
			}
		}
	}
	return items, nil
}

// printExplanation words a report for a reader who knows Rego and not mcpgw.
func printExplanation(w io.Writer, r *server.ExplainReport) error {
	p := &printer{w: w}
	x := r.Explanation
	effect, reasons := policy.Effect(""), []policy.Reason(nil)
	switch {
	case r.Ruled != nil:
		effect, reasons = r.Ruled.Effect, r.Ruled.Reasons
	case x != nil:
		effect, reasons = x.Effect, x.Reasons
	}
	fault := x != nil && x.Fault != nil
	p.line("%s", verdict(effect, reasons, fault))
	p.line("")
	if r.ID != "" {
		p.line("  decision  %s, %s", r.ID, r.At.Format(time.RFC3339))
	}
	p.line("  caller    %s", callerText(&r.Caller))
	p.line("  call      %s", callText(&r.Call))
	p.line("  policy    %s", policyText(r))
	if x != nil {
		p.line("  in lists  %s", shown(x))
		if len(x.Obligations) > 0 {
			p.line("  with it   %s", strings.Join(x.Obligations, ", "))
		}
	}
	if r.Before != "" {
		p.line("\nSuch a call is refused before policy is asked: %s. What follows is what policy would say.", r.Before)
	}
	if r.Note != "" {
		p.line("\nNote: %s.", r.Note)
	}
	if x == nil {
		return p.err
	}
	if fault {
		p.fault(x.Fault)
	}
	if len(x.Fired) > 0 {
		p.line("\nRules that held:")
		for _, rule := range x.Fired {
			p.line("  %s:%d  %s", near(rule.File), rule.Line, strings.TrimSuffix(rule.Text, " if"))
			if rule.Message != "" && !strings.Contains(rule.Text, rule.Message) {
				p.line("      message: %s", rule.Message)
			}
			p.values(rule.Values)
		}
	}
	distant := p.near(x.Near)
	switch more := distant + x.Omitted; {
	case more == 1:
		p.line("\n1 more rule was far from holding; --output json lists it.")
	case more > 1:
		p.line("\n%d more rules were far from holding; --output json lists them.", more)
	}
	if x.Partial != "" {
		p.line("\nRules may be missing: %s.", x.Partial)
	}
	return p.err
}

// printer keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) values(values []opa.ReadValue) {
	for _, v := range values {
		p.line("      %s = %s", v.Name, v.Value)
	}
}

func (p *printer) near(rules []opa.NearMiss) (distant int) {
	first := true
	for _, rule := range rules {
		if rule.Distant {
			distant++
			continue
		}
		if first {
			p.line("\nRules that did not hold, each with the condition that failed:")
			first = false
		}
		head, long := strings.CutSuffix(rule.Text, " if")
		if !long { // the whole rule stands on one line, and so in the next
			head = rule.Name
		}
		p.line("  %s:%d  %s: %d of %s held", near(rule.File), rule.Line, head, rule.Held, plural(rule.Of, "condition"))
		p.line("      line %d: %s", rule.Failed.Line, rule.Failed.Text)
		p.values(rule.Values)
	}
	return distant
}

func (p *printer) fault(f *opa.Trouble) {
	p.line("\nThe policy could not rule, so the call is refused: %s", f.Message)
	if f.File != "" {
		p.line("  %s:%d  %s", near(f.File), f.Line, f.Text)
	}
	p.values(f.Values)
}

func verdict(e policy.Effect, reasons []policy.Reason, fault bool) string {
	words := map[policy.Effect]string{policy.Allow: "Allowed", policy.Deny: "Refused", policy.Ask: "A human is asked"}[e]
	if words == "" {
		words = "Refused"
	}
	if e == policy.Allow {
		return words + "."
	}
	public := policy.Ruling{Effect: e, Reasons: reasons}
	if fault {
		public.Err = errors.New("told below")
	}
	return words + ": " + public.Public()
}

func callerText(c *server.ExplainedCaller) string {
	text := c.ID + " (" + c.Type + ")"
	for _, part := range []struct{ word, value string }{
		{"roles", strings.Join(c.Roles, " ")}, {"scopes", strings.Join(c.Scopes, " ")}, {"tenant", c.Tenant}, {"client", c.Client},
	} {
		if part.value != "" {
			text += ", " + part.word + " " + part.value
		}
	}
	return text
}

func callText(c *server.ExplainedCall) string {
	text := fmt.Sprintf("%s of %s %s/%s, endpoint %s", c.Method, c.Kind, c.Server, c.Item, c.Endpoint)
	if c.Path != "" {
		text += " at " + c.Path
	}
	return text + ", " + c.Era + " client"
}

func policyText(r *server.ExplainReport) string {
	switch {
	case r.Ruled != nil && r.Replaced:
		return r.Ruled.Revision + ", which another has replaced since"
	case r.Ruled != nil:
		return r.Ruled.Revision + ", in force"
	case r.Explanation != nil:
		return r.Explanation.Revision
	}
	return "unknown"
}

func shown(x *opa.Explanation) string {
	if x.Visible {
		return "shown to this caller"
	}
	return "hidden from this caller, to whom a call says that it is unknown: " + x.Hidden
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// near writes a path as seen from here, where that is shorter.
func near(path string) string {
	here, err := os.Getwd()
	if err != nil || !filepath.IsAbs(path) {
		return path
	}
	if rel, err := filepath.Rel(here, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}
