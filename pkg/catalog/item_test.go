package catalog

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewItemRefuses(t *testing.T) {
	deep := strings.Repeat(`{"properties":{"a":`, 40) + `{}` + strings.Repeat(`}}`, 40)
	for _, c := range []struct {
		kind       Kind
		definition string
		want       string // part of the reason; empty: accepted
	}{
		{Tool, `{"name":"a.b-C_1","inputSchema":{"type":"object"}}`, ""},
		{Tool, `{"name":"","inputSchema":{"type":"object"}}`, "missing or empty"},
		{Tool, `{"inputSchema":{"type":"object"}}`, "missing or empty"},
		{Tool, `{"name":"a b","inputSchema":{"type":"object"}}`, "characters"},
		{Tool, `{"name":"ä","inputSchema":{"type":"object"}}`, "characters"},
		{Tool, `{"name":"` + strings.Repeat("a", 129) + `","inputSchema":{"type":"object"}}`, "129 bytes"},
		{Tool, `{"name":1,"inputSchema":{"type":"object"}}`, `"name" has the wrong type`},
		{Tool, `{"name":"a"}`, "inputSchema is missing"},
		{Tool, `{"name":"a","inputSchema":[]}`, `"inputSchema" has the wrong type`},
		{Tool, `{"name":"a","inputSchema":{}}`, `not of type "object"`},
		{Tool, `{"name":"a","inputSchema":{"type":"string"}}`, `not of type "object"`},
		{Tool, `{"name":"a","inputSchema":{"type":"object"},"outputSchema":true}`, `"outputSchema" has the wrong type`},
		{Tool, `{"name":"a","inputSchema":{"type":"object"},"description":null}`, `"description" has the wrong type`},
		{Tool, `{"name":"a","Name":"b","inputSchema":{"type":"object"}}`, "differs only in case"},
		{Tool, `{"name":"a","name":"b","inputSchema":{"type":"object"}}`, "cannot be read"},
		{Tool, `{"name":"a","inputSchema":{"type":"object","type":"object"}}`, "cannot be read"},
		{Tool, `{"name":"a","inputSchema":{"type":"object","x":` + deep + `}}`, "cannot be read"},
		{Tool, `{"name":"a","inputSchema":{"type":"object","x":"` + strings.Repeat("x", maxDefinition) + `"}}`, "more than"},
		{Tool, `"a"`, "cannot be read"},
		{Tool, `{"name":"a","inputSchema":{"type":"object","properties":{"r":{"type":"string","x-mcp-header":"Region"}}}}`, ""},
		{Tool, `{"name":"a","inputSchema":{"type":"object","properties":{"r":{"type":"number","x-mcp-header":"Region"}}}}`, "x-mcp-header"},
		{Tool, `{"name":"a","inputSchema":{"type":"object","properties":{"r":{"type":"array","items":{"type":"string","x-mcp-header":"R"}}}}}`, "x-mcp-header"},
		{Resource, `{"uri":"test://a","name":"a"}`, ""},
		{Resource, `{"uri":"urn:isbn:1","name":"a"}`, ""},
		{Resource, `{"name":"a"}`, "uri is missing"},
		{Resource, `{"uri":"test://a"}`, "name is missing"},
		{Resource, `{"uri":"/a","name":"a"}`, "no scheme"},
		{Resource, `{"uri":"1x:a","name":"a"}`, "no scheme"},
		{Resource, `{"uri":"a:b c","name":"a"}`, "spaces"},
		{Resource, `{"uri":"a:b\u0000","name":"a"}`, "control"},
		{Resource, `{"uri":"a:` + strings.Repeat("x", maxURI) + `","name":"a"}`, "more than"},
		{Template, `{"uriTemplate":"test://{id}","name":"a"}`, ""},
		{Template, `{"uriTemplate":"test://{id","name":"a"}`, "RFC 6570"},
		{Template, `{"name":"a"}`, "uriTemplate is missing"},
		{Template, `{"uriTemplate":"test://{id}"}`, "name is missing"},
		{Template, `{"uriTemplate":"` + strings.Repeat("x", maxTemplate+1) + `","name":"a"}`, "more than"},
		{Prompt, `{"name":"with space, ä"}`, ""},
		{Prompt, `{"name":"a\nb"}`, "control"},
		{Prompt, `{"name":"a","arguments":{}}`, `"arguments" has the wrong type`},
		{Kind(9), `{"name":"a"}`, "no such kind"},
	} {
		_, err := NewItem("s", c.kind, []byte(c.definition), Trust{})
		if got := fmt.Sprint(err); (err == nil) != (c.want == "") || err != nil && !strings.Contains(got, c.want) {
			t.Errorf("%s %.80s: %v, want %q", c.kind, c.definition, err, c.want)
		}
	}
}

func TestNewItemReads(t *testing.T) {
	definition := `{"name":"a","description":"d","annotations":{"title":"T","readOnlyHint":true,"n":9007199254740993},
		"inputSchema":{"type":"object","properties":{"r":{"type":"string","x-mcp-header":"Region"}}},"x":1.0}`
	for _, c := range []struct {
		name        string
		trust       Trust
		annotations string
	}{
		{"nothing trusted", Trust{}, ""},
		{"trusted", Trust{Annotations: true}, `{"title":"T","readOnlyHint":true,"n":9007199254740993}`},
		{"set", Trust{Set: map[string]json.RawMessage{"a": []byte(`{"readOnlyHint":false}`)}}, `{"readOnlyHint":false}`},
		{
			"both",
			Trust{Annotations: true, Set: map[string]json.RawMessage{"a": []byte(`{"readOnlyHint":false,"z":1}`)}},
			`{"readOnlyHint":false,"z":1,"title":"T","n":9007199254740993}`,
		},
		{"set for another", Trust{Set: map[string]json.RawMessage{"b": []byte(`{"readOnlyHint":false}`)}}, ""},
	} {
		i, err := NewItem("s", Tool, []byte(definition), c.trust)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(i.Annotations); got != c.annotations {
			t.Errorf("%s: annotations %s, want %s", c.name, got, c.annotations)
		}
		if i.Title != "T" || i.ID() != "s/a" || string(i.Definition) != definition || len(i.Headers) != 1 || len(i.Digest) != 64 {
			t.Errorf("%s: %+v", c.name, i)
		}
		want := `{"annotations":{"title":"T","readOnlyHint":true,"n":9007199254740993},"description":"d","title":"T"}`
		if diff := cmp.Diff(want, string(i.Claimed)); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := NewItem("s", Tool, []byte(definition), Trust{Set: map[string]json.RawMessage{"a": []byte(`[]`)}}); err == nil {
		t.Error("annotations that are no object were accepted")
	}
}

func TestCollect(t *testing.T) {
	items, out := Collect("s", Prompt, [][]byte{
		[]byte(`{"name":"b"}`), []byte(`{"name":"a"}`), []byte(`{"name":"b","title":"again"}`), []byte(`{}`), []byte(`{"name":"x\ny"}`), []byte(`7`),
	}, Trust{})
	var names []string
	for _, i := range items {
		names = append(names, i.Name)
	}
	if diff := cmp.Diff([]string{"b", "a"}, names); diff != "" {
		t.Error(diff)
	}
	var labels []string
	for _, q := range out {
		labels = append(labels, q.Name)
	}
	if diff := cmp.Diff([]string{"b", "#4", "x?y", "#6"}, labels); diff != "" {
		t.Error(diff)
	}
	many := make([][]byte, MaxItems+5)
	for n := range many {
		many[n] = fmt.Appendf(nil, `{"name":"p%d"}`, n)
	}
	if items, out = Collect("s", Prompt, many, Trust{}); len(items) != MaxItems || len(out) != 1 {
		t.Errorf("%d items, %d quarantined", len(items), len(out))
	}
}

func TestPreparedOnce(t *testing.T) {
	i := &Item{}
	built := 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got := i.Prepared(func() any { built++; return 7 }); got != 7 {
				t.Errorf("got %v", got)
			}
		})
	}
	wg.Wait()
	if built != 1 {
		t.Errorf("built %d times", built)
	}
}

func TestReuseKeepsUnchangedItems(t *testing.T) {
	source := func(definitions ...string) *Source {
		s := &Source{Server: "s"}
		for _, d := range definitions {
			i, err := NewItem("s", Prompt, []byte(d), Trust{})
			if err != nil {
				t.Fatal(err)
			}
			s.Items[Prompt] = append(s.Items[Prompt], i)
		}
		return s
	}
	old := source(`{"name":"a"}`, `{"name":"b"}`)
	fresh := source(`{"name":"b"}`, `{"name":"a","title":"new"}`)
	got := fresh.Reuse(old)
	if got.Items[Prompt][0] != old.Items[Prompt][1] || got.Items[Prompt][1] == old.Items[Prompt][0] {
		t.Error("an unchanged item was replaced, or a changed one was kept")
	}
	if got.Digest() != fresh.Digest() || got.Digest() == old.Digest() {
		t.Error("digests do not follow the content")
	}
}
