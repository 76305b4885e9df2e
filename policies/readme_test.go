package policies_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
	"github.com/mcpgw/mcpgw/policies"
	"github.com/mcpgw/mcpgw/test/readme"
)

// An example of the README is a block of Rego, perhaps data for it, and the rulings that it gives.
type example struct {
	line    int
	section string
	opts    opa.Options
	want    rulings
}

// rulings are what stands in a block "yaml rulings".
type rulings struct {
	Remembered *bool `yaml:"remembered"` // whether the same question is answered from memory the second time
	Asks       []ask `yaml:"asks"`
}

// ask is one question and its ruling.
type ask struct {
	Who     who            `yaml:"who"`
	Calls   string         `yaml:"calls"` // server/name
	Kind    string         `yaml:"kind"`  // tool if nothing is said
	Item    item           `yaml:"item"`
	With    map[string]any `yaml:"with"` // arguments
	Session session        `yaml:"session"`
	At      string         `yaml:"at"`

	Ruling  policy.Effect `yaml:"ruling"`
	Because string        `yaml:"because"` // the one reason, if said
	Labels  []string      `yaml:"labels"`
	Listed  *bool         `yaml:"listed"` // whether the item is shown, if said
}

type who struct {
	ID     string   `yaml:"id"`
	Issuer string   `yaml:"issuer"`
	Tenant string   `yaml:"tenant"`
	Roles  []string `yaml:"roles"`
}

type item struct {
	Annotations map[string]any `yaml:"annotations"`
	Claimed     map[string]any `yaml:"claimed"`
	Drift       string         `yaml:"drift"`
	Findings    []string       `yaml:"findings"`
}

type session struct {
	Labels []string `yaml:"labels"`
	Lost   bool     `yaml:"lost"`
}

// examples reads the README.
func examples(t *testing.T) (found []example, faulty []readme.Block) {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for _, b := range readme.Blocks(string(text)) {
		last := len(found) - 1
		switch {
		case b.Is("rego"):
			section := ""
			for _, line := range lines[:b.Line] {
				if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "##") {
					section = title
				}
			}
			found = append(found, example{line: b.Line, section: section, opts: opa.Options{Modules: []opa.File{{Name: "policy.rego", Text: []byte(b.Text)}}}})
		case b.Is("yaml", "data"):
			found[last].opts.Data = append(found[last].opts.Data, opa.File{Name: "data.yaml", Text: []byte(b.Text)})
		case b.Is("yaml", "rulings"):
			d := yaml.NewDecoder(strings.NewReader(b.Text))
			d.KnownFields(true)
			if err := d.Decode(&found[last].want); err != nil {
				t.Fatalf("README.md:%d: %v", b.Line, err)
			}
		case b.Is("rego", "faulty"), b.Is("text", "faults"):
			faulty = append(faulty, b)
		}
	}
	return found, faulty
}

func (a ask) question(t interface{ Fatal(...any) }) *policy.Question {
	server, name, _ := strings.Cut(a.Calls, "/")
	object := func(v map[string]any) []byte {
		if v == nil {
			return nil
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	q := &policy.Question{
		Subject: &identity.Principal{Type: identity.User, ID: a.Who.ID, Issuer: a.Who.Issuer, Tenant: a.Who.Tenant, Roles: a.Who.Roles},
		Action:  "tools/call",
		Item: &catalog.Item{
			Server: server, Kind: catalog.Tool, Name: name, Annotations: object(a.Item.Annotations), Claimed: object(a.Item.Claimed),
			Drift: a.Item.Drift, Findings: a.Item.Findings,
		},
		Arguments: object(a.With),
		Context:   policy.Context{Endpoint: "mcp", Era: "modern", Labels: a.Session.Labels, LabelsLost: a.Session.Lost},
	}
	switch a.Kind {
	case "":
	case "resource":
		q.Action, q.Item.Kind, q.URI = "resources/read", catalog.Resource, name
	default:
		t.Fatal("no such kind: " + a.Kind)
	}
	if a.At != "" {
		at, err := time.Parse(time.RFC3339, a.At)
		if err != nil {
			t.Fatal(err)
		}
		q.Context.Time = at
	}
	return q
}

// TestExamples compiles every example of the README, finds nothing wrong with it, and asks its questions, each twice and as a list does.
func TestExamples(t *testing.T) {
	found, _ := examples(t)
	for _, x := range found {
		t.Run(x.section, func(t *testing.T) {
			e := load(t, x)
			if len(x.want.Asks) < 3 || x.want.Remembered == nil {
				t.Fatalf("README.md:%d: an example needs rulings", x.line)
			}
			if remembered := len(e.Unremembered()) == 0; remembered != *x.want.Remembered {
				t.Errorf("rulings are not remembered because of %v", e.Unremembered())
			}
			for _, a := range x.want.Asks {
				q := a.question(t)
				r := e.Decide(t.Context(), q)
				if r.Err != nil || r.Effect != a.Ruling || a.Because != "" && r.Public() != a.Because {
					t.Errorf("%s by %+v: %s (%s, %v), want %s (%s)", a.Calls, a.Who, r.Effect, r.Public(), r.Err, a.Ruling, a.Because)
				}
				var labels []string
				if r.Obligations != nil {
					labels = r.Obligations.Label
				}
				if !slices.Equal(labels, a.Labels) {
					t.Errorf("%s by %+v: labels %v, want %v", a.Calls, a.Who, labels, a.Labels)
				}
				if again := e.Decide(t.Context(), q); again.Cached != *x.want.Remembered || again.Effect != r.Effect {
					t.Errorf("%s, asked again: cached %v, %s", a.Calls, again.Cached, again.Effect)
				}
				listed, err := e.Visible(t.Context(), q)
				if err != nil || !listed && r.Effect != policy.Deny || a.Listed != nil && listed != *a.Listed {
					t.Errorf("%s by %+v: listed %v, %v", a.Calls, a.Who, listed, err)
				}
			}
		})
	}
	if len(found) < 13 {
		t.Errorf("only %d examples", len(found))
	}
	// Each module of the library has a section of its own, or shares one.
	modules, err := policies.Files.ReadDir("mcpgw/lib")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		name, ok := strings.CutSuffix(m.Name(), ".rego")
		if !ok || strings.HasSuffix(name, "_test") {
			continue
		}
		if !slices.ContainsFunc(found, func(x example) bool { return slices.Contains(strings.Fields(x.section), name) }) {
			t.Errorf("%s has no section in README.md", name)
		}
		text, err := policies.Files.ReadFile(path.Join("mcpgw/lib", m.Name()))
		if err != nil || !bytes.HasPrefix(text, []byte("# METADATA\n# title: ")) {
			t.Errorf("%s has no METADATA: %v", name, err)
		}
	}
}

func load(t *testing.T, x example) *opa.Engine {
	t.Helper()
	f := opa.Check(t.Context(), x.opts)
	for _, fault := range f.Faults {
		t.Errorf("README.md:%d: %s", x.line, fault)
	}
	for _, w := range f.Warnings {
		if slices.Contains([]opa.WarningKind{opa.WholeInput, opa.NoAllow, opa.Untyped, opa.OutsideEnum}, w.Kind) {
			t.Errorf("README.md:%d: %s", x.line, w)
		}
	}
	if f.Engine == nil {
		t.FailNow()
	}
	text, err := opa.Format(x.opts.Modules[0])
	if err != nil || !bytes.Equal(text, x.opts.Modules[0].Text) {
		t.Errorf("README.md:%d: not formatted: %v\n%s", x.line, err, text)
	}
	return f.Engine
}

// TestLinks: what the README points at is there.
func TestLinks(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	links := readme.Links(readme.Prose(string(text)))
	for _, target := range links {
		file, anchor, _ := strings.Cut(target, "#")
		if _, err := os.Stat(file); file != "" && err != nil {
			t.Error(err)
		}
		if file == "" && !readme.Anchors(string(text))[anchor] {
			t.Errorf("there is no heading for #%s", anchor)
		}
	}
	if len(links) < 15 {
		t.Errorf("only %d links", len(links))
	}
}

// TestTraps: check finds in the README's faulty policy what the README says.
func TestTraps(t *testing.T) {
	_, blocks := examples(t)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks", len(blocks))
	}
	f := opa.Check(t.Context(), opa.Options{Modules: []opa.File{{Name: "policy.rego", Text: []byte(blocks[0].Text)}}})
	want := strings.Split(strings.TrimSpace(blocks[1].Text), "\n")
	if len(f.Faults) != len(want) {
		t.Fatalf("found %v", f.Faults)
	}
	for i, w := range want {
		if got := f.Faults[i].String(); !strings.HasPrefix(got, w) {
			t.Errorf("README.md:%d: found %s\nwant %s", blocks[1].Line, got, w)
		}
	}
	// And they are traps: these calls pass.
	e := f.Engine
	for _, arguments := range []string{
		`{"count":1,"days":1,"purpose":"charity"}`, `{"amount":null,"count":1,"days":1,"purpose":"charity"}`, `{"amount":1,"days":1,"purpose":"charity"}`,
		`{"amount":1,"count":1,"days":null,"purpose":"charity"}`, `{"amount":1,"count":1,"days":1}`,
	} {
		q := ask{Who: who{Roles: []string{"payer"}}, Calls: "bank/pay"}.question(t)
		q.Arguments = []byte(arguments)
		if r := e.Decide(t.Context(), q); r.Effect != policy.Allow {
			t.Errorf("%s: %s %v", arguments, r.Public(), r.Err)
		}
	}
}

// TestLibraryHidesNothing asks random questions of every example: a hidden item has no call that passes, a shown one has some if the
// rules read no arguments, and what is remembered is what a fresh evaluation says.
func TestLibraryHidesNothing(t *testing.T) {
	found, _ := examples(t)
	type pair struct{ warm, cold *opa.Engine }
	engines := make([]pair, len(found))
	for i, x := range found {
		warm, err := opa.Load(x.opts)
		if err != nil {
			t.Fatal(err)
		}
		x.opts.CacheEntries = 1
		cold, err := opa.Load(x.opts)
		if err != nil {
			t.Fatal(err)
		}
		engines[i] = pair{warm, cold}
	}
	count := map[string]int{}
	values := []any{nil, true, false, 0, 1, 5, 51, 1.5, "", "acme", "bolt", "feature/a", "/srv/data/a", "/etc", "https://example.org/", []any{1}, map[string]any{"a": 1}}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, len(found)-1).Draw(t, "example")
		pick := func() ask { return rapid.SampledFrom(found[n].want.Asks).Draw(t, "ask") }
		a := ask{Who: pick().Who, Calls: pick().Calls, Item: pick().Item, Session: pick().Session, At: pick().At}
		names := map[string]bool{}
		for _, other := range found[n].want.Asks {
			for name := range other.With {
				names[name] = true
			}
		}
		q := a.question(t)
		shown, err := engines[n].warm.Visible(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		count[fmt.Sprint("shown ", shown)]++
		for range 5 {
			a.With = pick().With
			if rapid.Bool().Draw(t, "random") {
				a.With = map[string]any{}
				for _, name := range sorted(names) {
					if v := rapid.IntRange(-1, len(values)-1).Draw(t, name); v >= 0 {
						a.With[name] = values[v]
					}
				}
			}
			q := a.question(t)
			warm, cold := engines[n].warm.Decide(t.Context(), q), engines[n].cold.Decide(t.Context(), q)
			count[string(warm.Effect)]++
			if warm.Err != nil || warm.Effect != cold.Effect || warm.Public() != cold.Public() {
				t.Fatalf("%s: %+v: %+v, without memory %+v", found[n].section, a, warm, cold)
			}
			read, all := engines[n].warm.Reads(q.Item)
			switch passes := warm.Effect != policy.Deny; {
			case passes && !shown:
				t.Fatalf("%s: hidden, but %+v gets %s", found[n].section, a, warm.Effect)
			case !passes && shown && !all && len(read) == 0:
				t.Fatalf("%s: shown, but %+v is refused", found[n].section, a)
			}
		}
	})
	t.Log(count)
	if count["shown true"] == 0 || count["shown false"] == 0 || count["allow"] == 0 || count["deny"] == 0 || count["ask"] == 0 {
		t.Errorf("the questions do not reach everything: %v", count)
	}
}

func sorted(set map[string]bool) (names []string) {
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestStarter: the first policy's tests pass, and nothing is wrong with it.
func TestStarter(t *testing.T) {
	var modules, data []opa.File
	for _, name := range []string{"policy.rego", "policy_test.rego", "data.yaml"} {
		f, err := policies.Starter().Open(name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".rego") {
			modules = append(modules, opa.File{Name: name, Text: text})
		} else {
			data = append(data, opa.File{Name: name, Text: text})
		}
	}
	results, err := opa.RunTests(t.Context(), opa.TestOptions{Modules: modules, Data: data})
	if err != nil || len(results) < 5 {
		t.Fatalf("%d tests, %v", len(results), err)
	}
	for _, r := range results {
		if !r.Passed {
			t.Errorf("%s:%d %s: %v", r.File, r.Line, r.Name, r.Err)
		}
	}
	f := opa.Check(t.Context(), opa.Options{Modules: modules, Data: data})
	if len(f.Faults) > 0 || len(f.Warnings) > 0 || len(f.Engine.Unremembered()) > 0 {
		t.Errorf("%v %v", f.Faults, f.Warnings)
	}
	for call, want := range map[string]policy.Effect{"git/git_status": policy.Allow, "git/git_commit": policy.Deny, "git/git_log": policy.Deny, "mail/send": policy.Deny} {
		a := ask{Who: who{Roles: []string{"reader"}}, Calls: call}
		if r := f.Engine.Decide(t.Context(), a.question(t)); r.Effect != want || r.Err != nil {
			t.Errorf("%s: %s %v", call, r.Effect, r.Err)
		}
	}
}
