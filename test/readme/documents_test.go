package readme

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
	"github.com/mcpgw/mcpgw/test/harness"
)

// documents are the repository's Markdown files, by path from its top.
func documents(t *testing.T) map[string]string {
	t.Helper()
	root := harness.Tools(t).Root
	found := map[string]string{}
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md", "policies/GUIDE.md"} {
		found[name] = read(t, filepath.Join(root, name))
	}
	return found
}

// least is a whole configuration; a block that is a part of one replaces its sections.
const least = `
listeners: [{address: "127.0.0.1:8080"}]
servers: [{name: docs, http: {url: "https://mcp.example.org/mcp"}}, {name: git, http: {url: "https://git.example.org/mcp"}}]
policy: {directory: policy}
authentication: {api_keys: [{id: ci, digest: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]}
`

// TestConfigurations loads every YAML block of the documents, the parts of a configuration merged into a whole one.
func TestConfigurations(t *testing.T) {
	dir := t.TempDir()
	furnish(t, dir)
	t.Setenv("REGION", "eu")
	loaded := 0
	for name, text := range documents(t) {
		for _, b := range Blocks(text) {
			if !b.Is("yaml") {
				continue
			}
			whole, part := map[string]any{}, map[string]any{}
			if err := yaml.Unmarshal([]byte(least), &whole); err != nil {
				t.Fatal(err)
			}
			if err := yaml.Unmarshal([]byte(b.Text), &part); err != nil {
				t.Errorf("%s:%d: %v", name, b.Line, err)
				continue
			}
			maps.Copy(whole, part)
			data, err := yaml.Marshal(whole)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := config.Parse(filepath.Join(dir, "mcpgw.yaml"), data); err != nil {
				t.Errorf("%s:%d:\n%v", name, b.Line, err)
			}
			loaded++
		}
	}
	if loaded < 8 {
		t.Errorf("only %d configurations were found", loaded)
	}
}

// TestFields: every field of the configuration stands in the README.
func TestFields(t *testing.T) {
	readme := documents(t)["README.md"]
	seen := map[protoreflect.FullName]bool{}
	var visit func(m protoreflect.MessageDescriptor)
	visit = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] || !strings.HasPrefix(string(m.FullName()), "mcpgw.") {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if !m.IsMapEntry() && !regexp.MustCompile(`\b`+string(f.Name())+`(:|`+"`"+`)`).MatchString(readme) {
				t.Errorf("README.md does not show %s", f.FullName())
			}
			if f.Message() != nil {
				visit(f.Message())
			}
		}
	}
	visit((&configv1.Config{}).ProtoReflect().Descriptor())
}

// furnish makes the files that the documents' configurations name.
func furnish(t *testing.T, dir string) {
	t.Helper()
	authority := harness.NewAuthority(t)
	cert := authority.Issue(t, "mcp.example.org", time.Now().Add(time.Hour))
	for name, text := range map[string]string{
		"policy/p.rego":      "package mcpgw.policy\n\nallow := true\n",
		"policy-next/p.rego": "package mcpgw.policy\n\nallow := true\n",
		"keys/bundle.pem":    "key\n",
		"grants.json":        "{}",
		"secrets/docs-token": "token\n",
		"keys/jwks.json":     `{"keys": []}`,
		"work/README":        "",
		"tls/cert.pem":       read(t, cert.CertFile), "tls/key.pem": read(t, cert.KeyFile), "tls/ca.pem": read(t, authority.CertFile),
		"tls/client.pem": read(t, cert.CertFile), "tls/client-key.pem": read(t, cert.KeyFile),
	} {
		harness.WriteFile(t, filepath.Join(dir, name), text)
	}
	harness.WriteFile(t, filepath.Join(dir, "bin", "envoy"), "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(dir, "bin", "envoy"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestPolicies loads every Rego block, and holds the trap and its cure to what the README says of them.
func TestPolicies(t *testing.T) {
	loaded := 0
	for name, text := range documents(t) {
		for _, b := range Blocks(text) {
			if len(b.Info) == 0 || b.Info[0] != "rego" || b.Is("rego", "test") {
				continue
			}
			loaded++
			engine, err := opa.Load(opa.Options{Modules: []opa.File{{Name: "policy.rego", Text: []byte(b.Text)}}})
			if err != nil {
				t.Errorf("%s:%d: %v", name, b.Line, err)
				continue
			}
			if b.Is("rego") {
				continue
			}
			warned := slices.ContainsFunc(engine.Warnings(), func(w opa.Warning) bool { return w.Kind == opa.Unguarded })
			effect := engine.Decide(t.Context(), &policy.Question{
				Subject: &identity.Principal{Type: identity.User, ID: "a"}, Action: "tools/call",
				Item: &catalog.Item{Server: "s", Kind: catalog.Tool, Name: "t"}, Arguments: []byte("{}"),
			}).Effect
			if trap := b.Is("rego", "trap"); warned != trap || (effect == policy.Allow) != trap {
				t.Errorf("%s:%d: %v: warned %v, effect without the argument %s", name, b.Line, b.Info, warned, effect)
			}
		}
	}
	if loaded < 3 {
		t.Errorf("only %d policies were found", loaded)
	}
}

// TestLinks looks for what every link points at, anchors included.
func TestLinks(t *testing.T) {
	root, docs := harness.Tools(t).Root, documents(t)
	for name, text := range docs {
		for _, target := range Links(Prose(text)) {
			path, anchor, _ := strings.Cut(target, "#")
			switch {
			case strings.Contains(path, "://"):
			case path == "":
				if !Anchors(text)[anchor] {
					t.Errorf("%s: there is no heading for #%s", name, anchor)
				}
			default:
				path = filepath.Join(filepath.Dir(name), path)
				if _, err := os.Stat(filepath.Join(root, path)); err != nil {
					t.Errorf("%s: %s is not there", name, target)
				} else if anchor != "" && !Anchors(docs[path])[anchor] {
					t.Errorf("%s: there is no heading for %s", name, target)
				}
			}
		}
	}
}

var (
	makeTarget = regexp.MustCompile(`\bmake ([a-z][a-z-]*)`)
	flag       = regexp.MustCompile(`--[a-z][a-z-]*`)
	metric     = regexp.MustCompile(`^(mcpgw|mcp)_[a-z_]+$`)
	attribute  = regexp.MustCompile(`^(mcpgw|mcp|gen_ai)\.[a-z_.]+$`)
	file       = regexp.MustCompile(`^(pkg|cmd|test|policies|envoy|examples|proto)/[A-Za-z0-9_./-]+$`)
	declared   = regexp.MustCompile("`([A-Za-z]+)` (?:and `([A-Za-z]+)` )?in `([a-z/0-9_]+(?:\\.go)?)`")
	testName   = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z][A-Za-z0-9]*`)
)

// TestNames looks up what the documents name: make targets, flags, metrics, attributes of spans, files and tests.
func TestNames(t *testing.T) {
	root := harness.Tools(t).Root
	makefile := read(t, filepath.Join(root, "Makefile"))
	names := read(t, filepath.Join(root, "pkg/telemetry/names.go"))
	help := strings.Join(slices.Collect(maps.Values(helps(t))), "\n")
	tests := testsOf(t, root)
	for name, text := range documents(t) {
		prose := Prose(text)
		for _, m := range makeTarget.FindAllStringSubmatch(prose, -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") && inCode(prose, "make "+m[1]) {
				t.Errorf("%s: there is no target for make %s", name, m[1])
			}
		}
		for _, test := range testName.FindAllString(prose, -1) {
			if !tests[test] {
				t.Errorf("%s: there is no test %s", name, test)
			}
		}
		for _, m := range declared.FindAllStringSubmatch(prose, -1) {
			for _, what := range m[1:3] {
				if what != "" && !declares(t, filepath.Join(root, m[3]), what) {
					t.Errorf("%s: there is no %s in %s", name, what, m[3])
				}
			}
		}
		for _, word := range Code(prose) {
			switch {
			case strings.HasPrefix(word, "mcpgw ") || strings.HasPrefix(word, "--"):
				for _, f := range flag.FindAllString(word, -1) {
					if !strings.Contains(help, f) {
						t.Errorf("%s: %s: no command takes %s", name, word, f)
					}
				}
			case metric.MatchString(word), attribute.MatchString(word):
				if !strings.Contains(names, `"`+word+`"`) && !strings.HasPrefix(word, "mcpgw.policy") {
					t.Errorf("%s: nothing is called %s in pkg/telemetry/names.go", name, word)
				}
			case file.MatchString(word):
				if _, err := os.Stat(filepath.Join(root, word)); err != nil {
					t.Errorf("%s: %s is not there", name, word)
				}
			}
		}
	}
}

func inCode(prose, words string) bool {
	return slices.ContainsFunc(Code(prose), func(c string) bool { return strings.HasPrefix(c, words) })
}

// declares tells whether a Go file, or one of a folder, declares a function, type, variable or constant of that name.
func declares(t *testing.T, path, name string) bool {
	t.Helper()
	files := []string{path}
	if !strings.HasSuffix(path, ".go") {
		var err error
		if files, err = filepath.Glob(filepath.Join(path, "*.go")); err != nil {
			t.Fatal(err)
		}
	}
	declaration := regexp.MustCompile(`(?m)^(?:(?:func|type|var|const) (?:\([^)]*\) )?|\t)` + name + `\b`)
	return slices.ContainsFunc(files, func(file string) bool {
		_, err := os.Stat(file)
		return err == nil && declaration.MatchString(read(t, file))
	})
}

// testsOf names every test and fuzz target of the repository.
func testsOf(t *testing.T, root string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`)
	for _, top := range []string{"pkg", "test", "policies", "examples", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, _ os.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, "_test.go") {
				for _, m := range declared.FindAllStringSubmatch(read(t, path), -1) {
					found[m[1]] = true
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// TestDefaults compares the README's table of defaults with those that a configuration gets.
func TestDefaults(t *testing.T) {
	c := config.Defaulted(&configv1.Config{Servers: []*configv1.Server{{}}, Policy: &configv1.Policy{}, Telemetry: &configv1.Telemetry{Otlp: &configv1.OTLP{}}})
	l := c.Limits
	span := func(d *durationpb.Duration) string {
		switch v := d.AsDuration(); {
		case v%time.Hour == 0:
			return fmt.Sprintf("%d h", v/time.Hour)
		case v%time.Minute == 0:
			return fmt.Sprintf("%d min", v/time.Minute)
		default:
			return fmt.Sprintf("%d s", v/time.Second)
		}
	}
	number := func(n uint32) string {
		if n < 1000 {
			return fmt.Sprint(n)
		}
		return fmt.Sprintf("%d,%03d", n/1000, n%1000)
	}
	readme := documents(t)["README.md"]
	for what, want := range map[string]string{
		"body; all bodies in flight":                                               fmt.Sprintf("%d MiB; %d MiB", l.GetBodyBytes()>>20, l.GetBodiesInFlightBytes()>>20),
		"JSON nesting":                                                             number(l.GetDepth()),
		"upload":                                                                   span(l.Upload),
		"a call without a byte; in all":                                            span(l.CallIdle) + "; " + span(l.CallTotal),
		"legacy sessions; of one principal":                                        number(l.GetSessions()) + "; " + number(l.GetSessionsPerPrincipal()),
		"session life; idle":                                                       span(l.SessionLifetime) + "; " + span(l.SessionIdle),
		"open streams of one principal":                                            number(l.GetStreamsPerPrincipal()),
		"a judged request waits for the broker":                                    span(l.Park),
		"comment line on a quiet stream":                                           span(l.StreamKeepalive),
		"one message from a server that the gateway reads":                         fmt.Sprintf("%d MiB", l.GetServerMessageBytes()>>20),
		"failed credentials of one address in a minute":                            number(l.GetFailedCredentialsPerMinute()),
		"connections of clients; Envoy's heap":                                     fmt.Sprintf("%s; %d GiB", number(l.GetConnections()), l.GetEnvoyHeapBytes()>>30),
		"refresh of a server that says neither `ttlMs` nor `list_changed`":         span(c.Servers[0].Refresh),
		"one ruling":                                                               span(c.Policy.Timeout),
		"rulings kept for `mcpgw explain`; how long":                               number(c.Policy.Explain.GetKeep()) + "; " + span(c.Policy.Explain.KeepFor),
		"a question to a human waits; in all; of one principal":                    span(c.Policy.Approvals.Expiry) + "; " + number(c.Policy.Approvals.GetPending()) + "; " + number(c.Policy.Approvals.GetPendingPerPrincipal()),
		"a label of a caller without a session lasts; callers that are remembered": span(c.Policy.Labels.Expiry) + "; " + number(c.Policy.Labels.GetCallers()),
		"a result that is redacted":                                                fmt.Sprintf("%d MiB", c.Policy.GetRedactBytes()>>20),
		"drain":                                                                    span(c.Envoy.DrainTime),
		"trace sampling":                                                           fmt.Sprintf("%v %%", c.Telemetry.Otlp.GetSamplingPercent()),
	} {
		if row := fmt.Sprintf("\n| %s | %s |\n", what, want); !strings.Contains(readme, row) {
			t.Errorf("README.md should have the row%s", row)
		}
	}
}

// TestLogFields compares the fields that the README lists with those that a log line can have.
func TestLogFields(t *testing.T) {
	root := harness.Tools(t).Root
	source := read(t, filepath.Join(root, "pkg/telemetry/exchange.go"))
	_, list, ok := strings.Cut(documents(t)["README.md"], "with the fields")
	list, _, ended := strings.Cut(list, "empty ones are left out")
	if !ok || !ended {
		t.Fatal("README.md lists no fields of the log")
	}
	for _, field := range Code(list) {
		if !strings.Contains(source, `"`+field+`"`) {
			t.Errorf("README.md: no log line has the field %s", field)
		}
	}
}

// TestHelp wants an example of every command, and each command in the README.
func TestHelp(t *testing.T) {
	readme := documents(t)["README.md"]
	for command, text := range helps(t) {
		if strings.Contains(text, "Available Commands:") {
			continue
		}
		if _, examples, _ := strings.Cut(text, "\nExamples:\n"); !strings.Contains(examples, "  "+command) {
			t.Errorf("%s --help has no example", command)
		}
		if !strings.Contains(readme, "`"+command) {
			t.Errorf("README.md does not name %s", command)
		}
	}
}

var subcommand = regexp.MustCompile(`(?m)^  ([a-z]+) +\S`)

// helps is the help of every command, by the words that call it.
func helps(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	var ask func(words ...string)
	ask = func(words ...string) {
		out, err := exec.Command(harness.Mcpgw(t), append(words, "--help")...).Output()
		if err != nil {
			t.Fatalf("mcpgw %v --help: %v", words, err)
		}
		found[strings.Join(append([]string{"mcpgw"}, words...), " ")] = string(out)
		_, list, ok := bytes.Cut(out, []byte("Available Commands:\n"))
		if !ok {
			return
		}
		list, _, _ = bytes.Cut(list, []byte("\n\n"))
		for _, m := range subcommand.FindAllSubmatch(list, -1) {
			if name := string(m[1]); name != "help" {
				ask(append(slices.Clone(words), name)...)
			}
		}
	}
	ask()
	return found
}
