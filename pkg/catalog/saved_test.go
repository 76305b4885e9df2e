package catalog

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestSavedKeepsWhatPolicySees: a catalog that is saved and read again answers with equal items, definitions excepted.
func TestSavedKeepsWhatPolicySees(t *testing.T) {
	trust := Trust{Annotations: true, Tags: []string{"dev"}}
	definitions := map[Kind][]string{
		Tool: {
			`{"name":"log","title":"Log","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true,"n":9007199254740993,"less":"<"}}`,
			`{"name":"push","inputSchema":{"type":"object"}}`,
		},
		Resource: {`{"uri":"file:///a","name":"a"}`},
		Template: {`{"uriTemplate":"file:///{x}","name":"t"}`},
		Prompt:   {`{"name":"log"}`},
	}
	src := &Source{Server: "git"}
	for kind, texts := range definitions {
		for _, text := range texts {
			i, err := NewItem("git", kind, []byte(text), trust)
			if err != nil {
				t.Fatal(err)
			}
			i.Findings = []string{"invisible"}
			src.Items[kind] = append(src.Items[kind], i)
		}
	}
	c := BuildLocked(nil, []*Source{src}, NewLock(), nil) // a lock that knows nothing: everything is new
	text, err := json.MarshalIndent(c.Save(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	d, err := ReadSaved(text)
	if err != nil {
		t.Fatal(err)
	}
	for kind, items := range c.Source("git").Items {
		for _, want := range items {
			if want.Drift != New || len(want.Findings) == 0 {
				t.Fatalf("%s: drift %q, findings %v: the test shows too little", want.ID(), want.Drift, want.Findings)
			}
			got := d.Find("git", Kind(kind), want.Name)
			if got == nil {
				t.Fatalf("%s %s is not found", Kind(kind), want.Name)
			}
			opaque := cmp.Transformer("JSON", func(b []byte) any {
				var v any
				dec := json.NewDecoder(strings.NewReader(string(b)))
				dec.UseNumber()
				if len(b) > 0 && dec.Decode(&v) != nil {
					t.Fatalf("not JSON: %s", b)
				}
				return v
			})
			if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Item{}), cmpopts.IgnoreFields(Item{}, "Definition", "InputSchema", "Headers"), opaque); d != "" {
				t.Error(d)
			}
		}
	}
	for name, want := range map[string]string{"file:///a": "file:///a", "file:///b": "file:///{x}", "file:///b/c": "", "http://h/": ""} {
		got := d.Find("git", Resource, name)
		if want == "" && got != nil || want != "" && (got == nil || got.Name != want) {
			t.Errorf("%s is found as %v, want %q", name, got, want)
		}
	}
	if d.Find("hg", Tool, "log") != nil || d.Find("git", Tool, "nope") != nil {
		t.Error("what is not there is found")
	}
	if got := d.Names("git", Tool); !cmp.Equal(got, []string{"log", "push"}) || !cmp.Equal(d.Servers(), []string{"git"}) {
		t.Errorf("names %v, servers %v", got, d.Servers())
	}
}

func TestSavedIsReadStrictly(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"no JSON":            {`{"items":[`, "line 1: no saved catalog"},
		"an unknown member":  {"{\"items\":[\n{\"server\":\"s\",\"type\":\"tool\",\"name\":\"n\",\"nam\":\"n\"}]}", `unknown field "nam"`},
		"an unknown kind":    {`{"items":[{"server":"s","type":"toool","name":"n"}]}`, `"toool" is no kind of item`},
		"no name":            {`{"items":[{"server":"s","type":"tool"}]}`, "item 1 (tool s/): server or name is missing"},
		"annotations a list": {`{"items":[{"server":"s","type":"tool","name":"n","annotations":[]}]}`, "must be objects"},
		"twice":              {`{"items":[{"server":"s","type":"tool","name":"n"},{"server":"s","type":"tool","name":"n"}]}`, "item 2 (tool s/n): it stands there twice"},
		"a bad template":     {`{"items":[{"server":"s","type":"template","name":"{"}]}`, "item 1 (template s/{)"},
		"more than one":      {`{"items":[]}{}`, "something follows"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ReadSaved([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}
