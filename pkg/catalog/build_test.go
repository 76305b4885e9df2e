package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)

// source makes a server that offers tools by name, and anything else as kind:name.
func source(server string, modern bool, names ...string) *Source {
	s := &Source{Server: server, Modern: modern, Legacy: !modern, Fetched: now}
	for _, n := range names {
		kind, d := Tool, fmt.Sprintf(`{"name":%q,"inputSchema":{"type":"object"}}`, n)
		if k, rest, ok := strings.Cut(n, "="); ok {
			switch k {
			case "resource":
				kind, d = Resource, fmt.Sprintf(`{"name":"r","uri":%q}`, rest)
			case "template":
				kind, d = Template, fmt.Sprintf(`{"name":"t","uriTemplate":%q}`, rest)
			case "prompt":
				kind, d = Prompt, fmt.Sprintf(`{"name":%q}`, rest)
			case "raw":
				d = rest
			}
		}
		i, err := NewItem(server, kind, []byte(d), Trust{})
		if err != nil {
			panic(err)
		}
		s.Items[kind] = append(s.Items[kind], i)
	}
	return s
}

func names(v *View, kind Kind, era Era) []string {
	out := []string{}
	for _, e := range v.Entries(kind, era) {
		out = append(out, e.Public+" "+e.Item.ID())
	}
	return out
}

var open = []Selection{{Server: "*"}}

func TestNames(t *testing.T) {
	a, b := source("a", true, "x", "y", "prompt=p"), source("b", true, "x")
	for _, c := range []struct {
		name string
		e    Endpoint
		want []string
	}{
		{"a glob has prefixes", Endpoint{Servers: open}, []string{"a_x a/x", "a_y a/y", "b_x b/x"}},
		{"one literal server has none", Endpoint{Servers: []Selection{{Server: "a"}}}, []string{"x a/x", "y a/y"}},
		{"two literal servers", Endpoint{Servers: []Selection{{Server: "b"}, {Server: "a"}}}, []string{"a_x a/x", "a_y a/y", "b_x b/x"}},
		{"set and off", Endpoint{Servers: open, Prefix: map[string]string{"a": "", "b": "bee."}}, []string{"x a/x", "y a/y", "bee.x b/x"}},
		{"set for one", Endpoint{Servers: []Selection{{Server: "a"}}, Prefix: map[string]string{"a": "q-"}}, []string{"q-x a/x", "q-y a/y"}},
		{"include", Endpoint{Servers: []Selection{{Server: "*", Include: []string{"x"}}}}, []string{"a_x a/x", "b_x b/x"}},
		{"exclude wins", Endpoint{Servers: []Selection{{Server: "*", Include: []string{"*"}, Exclude: []string{"x"}}}}, []string{"a_y a/y"}},
		{"kinds", Endpoint{Servers: []Selection{{Server: "*", Kinds: []Kind{Prompt}}}}, []string{}},
		{"a bad pattern takes nothing", Endpoint{Servers: []Selection{{Server: "*", Exclude: []string{"["}}}}, []string{}},
		{"no selection takes nothing", Endpoint{}, []string{}},
	} {
		c.e.Name, c.e.Path = "e", "/mcp"
		v := Build([]Endpoint{c.e}, []*Source{a, b}, nil).View("/mcp")
		if diff := cmp.Diff(c.want, names(v, Tool, Modern)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		for _, e := range v.Entries(Tool, Modern) {
			var d struct{ Name string }
			if err := json.Unmarshal(e.Fragment(Modern), &d); err != nil || d.Name != e.Public {
				t.Errorf("%s: fragment %s, want name %q", c.name, e.Fragment(Modern), e.Public)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	for want, e := range map[string]Endpoint{
		"needs a name":         {Path: "/a"},
		"does not begin":       {Name: "a", Path: "a"},
		"negative":             {Name: "a", Path: "/a", PageSize: -1},
		`servers[0]: pattern`:  {Name: "a", Path: "/a", Servers: []Selection{{Server: "["}}},
		`pattern "": is empty`: {Name: "a", Path: "/a", Servers: []Selection{{Server: "*", Include: []string{""}}}},
		`prefix "a b"`:         {Name: "a", Path: "/a", Prefix: map[string]string{"s": "a b"}},
		"<nil>":                {Name: "a", Path: "/a", Servers: open, Prefix: map[string]string{"s": ""}},
	} {
		if got := fmt.Sprint(e.Check()); !strings.Contains(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestPerServer(t *testing.T) {
	e := Endpoint{Name: "e", Path: "/mcp", Servers: []Selection{{Server: "a"}, {Server: "b", Exclude: []string{"x"}}}, PerServer: true}
	taken := Endpoint{Name: "dev", Path: "/mcp/b", Servers: open}
	c := Build([]Endpoint{e, taken}, []*Source{source("a", true, "x"), source("b", true, "x", "y"), source("c", true, "z")}, nil)
	var paths []string
	for _, v := range c.Views() {
		paths = append(paths, v.Path+" "+v.Endpoint+" "+v.Server)
	}
	if diff := cmp.Diff([]string{"/mcp e ", "/mcp/b dev ", "/mcp/a e a"}, paths); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"x a/x"}, names(c.View("/mcp/a"), Tool, Modern)); diff != "" {
		t.Error(diff)
	}
	c = Build([]Endpoint{e}, []*Source{source("a", true, "x"), source("b", true, "x", "y")}, nil)
	if diff := cmp.Diff([]string{"y b/y"}, names(c.View("/mcp/b"), Tool, Modern)); diff != "" {
		t.Error(diff)
	}
}

func TestOwnership(t *testing.T) {
	bare := Endpoint{Name: "e", Path: "/mcp", Servers: open, Prefix: map[string]string{"a": "", "b": ""}}
	build := func(p *Catalog, s ...*Source) *Catalog { return Build([]Endpoint{bare}, s, p) }
	expect := func(step string, c *Catalog, refused int, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, names(c.View("/mcp"), Tool, Modern)); diff != "" {
			t.Errorf("%s: %s", step, diff)
		}
		if q := c.Report().Endpoints[0].Quarantined; len(q) != refused {
			t.Errorf("%s: quarantined %v, want %d", step, q, refused)
		}
	}
	a, b := source("a", true, "x", "y"), source("b", true, "x", "z")
	c := build(nil, a, b)
	expect("configuration order", c, 1, "x a/x", "y a/y", "z b/z")
	if q := c.Report().Endpoints[0].Quarantined[0]; !strings.Contains(q.Reason, `"x" belongs to x of a`) {
		t.Errorf("reason %q", q.Reason)
	}
	c = build(nil, &Source{Server: "a"}, b)
	expect("a was never up", c, 0, "x b/x", "z b/z")
	c = build(c, a, b)
	expect("a comes and takes nothing over", c, 1, "y a/y", "x b/x", "z b/z")

	c = build(nil, a, b)
	c = build(c, source("a", true, "y"), b)
	expect("a drops x, and b does not slip under it", c, 1, "y a/y", "z b/z")
	c = build(c, source("a", true, "y"), b)
	expect("still not", c, 1, "y a/y", "z b/z")
	c = build(c, a, b)
	expect("a offers it again", c, 1, "x a/x", "y a/y", "z b/z")
	c = build(c, source("a", true, "y"), b)
	bare.Servers = []Selection{{Server: "a", Exclude: []string{"x"}}, {Server: "b"}}
	expect("the endpoint excludes it: the name is free", build(c, source("a", true, "y"), b), 0, "y a/y", "x b/x", "z b/z")
	bare.Servers = open
	expect("the server is gone: its names are free", build(c, b), 0, "x b/x", "z b/z")

	legacy := build(nil, source("a", false, "x"), b)
	expect("modern clients do not see a's", legacy, 1, "z b/z")
	if diff := cmp.Diff([]string{"x a/x", "z b/z"}, names(legacy.View("/mcp"), Tool, Legacy)); diff != "" {
		t.Error(diff)
	}
	if l := legacy.Report().Endpoints[0].LeftOut; len(l) != 1 || l[0].Items != 1 || l[0].Server != "a" {
		t.Errorf("left out %v", l)
	}
}

func TestTooLongWithPrefix(t *testing.T) {
	long := strings.Repeat("n", 127)
	c := Build([]Endpoint{{Name: "e", Path: "/mcp", Servers: open}}, []*Source{source("a", true, long, "ok")}, nil)
	if diff := cmp.Diff([]string{"a_ok a/ok"}, names(c.View("/mcp"), Tool, Modern)); diff != "" {
		t.Error(diff)
	}
	if q := c.Report().Endpoints[0].Quarantined; len(q) != 1 || !strings.Contains(q[0].Reason, "129 bytes") {
		t.Errorf("quarantined %v", q)
	}
}

func TestResolveURI(t *testing.T) {
	a := source("a", true, "resource=test://t/1", "template=test://t/{id}", "template=test://q{?x,y}")
	b := source("b", true, "resource=test://t/1", "resource=test://t/9", "template=test://{+all}")
	e := []Endpoint{{Name: "e", Path: "/mcp", Servers: open}}
	c := Build(e, []*Source{a, b}, nil)
	check := func(c *Catalog, uri, want string) {
		t.Helper()
		got := "none"
		if n := c.View("/mcp").ResolveURI(uri); n != nil {
			got = n.Item.ID()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", uri, got, want)
		}
	}
	check(c, "test://t/1", "a/test://t/1")
	check(c, "test://t/9", "b/test://t/9")
	check(c, "test://t/2", "a/test://t/{id}")
	check(c, "test://t/a%20b", "a/test://t/{id}")
	check(c, "test://q", "a/test://q{?x,y}")
	check(c, "test://q?x=1&y=2", "a/test://q{?x,y}")
	check(c, "test://t/2/3", "b/test://{+all}")
	check(c, "other://t", "none")
	check(c, "", "none")
	check(c, "test://"+strings.Repeat("x", maxURI), "none")
	// A server that comes first in the configuration, but later in time, matches later.
	c = Build(e, []*Source{b}, nil)
	check(c, "test://t/2", "b/test://{+all}")
	c = Build(e, []*Source{a, b}, c)
	check(c, "test://t/2", "b/test://{+all}")
	if c.View("/mcp").Resolve(Template, "test://t/{id}") == nil || c.View("/mcp").Resolve(Kind(7), "x") != nil {
		t.Error("a template is found by its own text, and an unknown kind finds nothing")
	}
}

func TestFragments(t *testing.T) {
	raw := `{ "name" : "x", "big":9007199254740993, "f":1.0, "outputSchema":{"type":"array"}, "inputSchema":{"type":"object"} }`
	ref := `{"outputSchema":{"anyOf":[{"$ref":"#/$defs/a"}]},"inputSchema":{"type":"object"},"name":"y"}`
	v := Build([]Endpoint{{Name: "e", Path: "/mcp", Servers: open}}, []*Source{source("a", true, "raw="+raw, "raw="+ref)}, nil).View("/mcp")
	for n, want := range [][2]string{
		{
			`{ "name" : "a_x", "big":9007199254740993, "f":1.0, "outputSchema":{"type":"array"}, "inputSchema":{"type":"object"} }`,
			`{ "name" : "a_x", "big":9007199254740993, "f":1.0, "outputSchema":{"type":"object","properties":{"result":{"type":"array"}},"required":["result"]}, "inputSchema":{"type":"object"} }`,
		},
		{
			`{"outputSchema":{"anyOf":[{"$ref":"#/$defs/a"}]},"inputSchema":{"type":"object"},"name":"a_y"}`,
			`{"outputSchema":{"type":"object","properties":{"result":{}},"required":["result"]},"inputSchema":{"type":"object"},"name":"a_y"}`,
		},
	} {
		e := v.Entries(Tool, Legacy)[n]
		if !e.Wraps || string(e.Fragment(Modern)) != want[0] || string(e.Fragment(Legacy)) != want[1] {
			t.Errorf("modern %s\nlegacy %s", e.Fragment(Modern), e.Fragment(Legacy))
		}
	}
}

func TestAppendList(t *testing.T) {
	a, b := source("a", true, "x", "y"), &Source{Server: "b"}
	a.TTL = 5 * time.Second
	e := []Endpoint{{Name: "e", Path: "/mcp", Servers: []Selection{{Server: "a"}}, PageSize: 1}, {Name: "all", Path: "/all", Servers: open}}
	c := Build(e, []*Source{a, b}, nil)
	v := c.View("/mcp")
	page, next, err := v.Page(v.Entries(Tool, Modern), "")
	if err != nil {
		t.Fatal(err)
	}
	got := string(v.AppendList([]byte("> "), Tool, Modern, page, next, []byte(`"_meta":{}`)))
	want := `> {"tools":[{"name":"x","inputSchema":{"type":"object"}}],"nextCursor":"` + next + `","resultType":"complete","ttlMs":5000,"cacheScope":"private","_meta":{}}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := string(v.AppendList(nil, Template, Legacy, nil, "")); got != `{"resourceTemplates":[]}` {
		t.Error(got)
	}
	if ttl := c.View("/all").TTL(); ttl != a.TTL {
		t.Errorf("ttl %v", ttl)
	}
	a.TTL = 0
	if ttl := Build(e, []*Source{a, b}, nil).View("/all").TTL(); ttl != partialTTL {
		t.Errorf("ttl of a list that will grow: %v", ttl)
	}
	if ttl := v.TTL(); ttl != DefaultTTL {
		t.Errorf("ttl where none says: %v", ttl)
	}
}

func TestPageBadCursor(t *testing.T) {
	v := Build([]Endpoint{{Name: "e", Path: "/mcp", Servers: open}}, nil, nil).View("/mcp")
	for _, cursor := range []string{"x", "?", "MTI", "LTEgYQ", "MDEgYQ", "MSA", " ", strings.Repeat("A", maxCursor+1)} {
		if _, _, err := v.Page(nil, cursor); !errors.Is(err, ErrCursor) {
			t.Errorf("%.20q: %v", cursor, err)
		}
	}
	if page, next, err := v.Page(nil, writeCursor(3, "gone")); err != nil || len(page) != 0 || next != "" {
		t.Errorf("a cursor beyond the end: %v %q %v", page, next, err)
	}
}

func TestPageGoesOnWhereAnItemVanished(t *testing.T) {
	e := []Endpoint{{Name: "e", Path: "/mcp", Servers: []Selection{{Server: "a"}}, PageSize: 2}}
	v := Build(e, []*Source{source("a", true, "p", "q", "r", "s")}, nil).View("/mcp")
	_, next, _ := v.Page(v.Entries(Tool, Modern), "")
	v = Build(e, []*Source{source("a", true, "p", "r", "s")}, nil).View("/mcp")
	page, _, err := v.Page(v.Entries(Tool, Modern), next)
	if err != nil || len(page) != 2 || page[0].Public != "r" {
		t.Errorf("%v %v", page, err)
	}
	v = Build(e, []*Source{source("a", true, "new", "p", "q", "r", "s")}, nil).View("/mcp")
	if page, _, _ = v.Page(v.Entries(Tool, Modern), next); page[0].Public != "r" {
		t.Errorf("an item before it: %v", page[0].Public)
	}
}

func TestVersionAndReuse(t *testing.T) {
	e := []Endpoint{{Name: "e", Path: "/mcp", Servers: open}}
	a := source("a", true, "x")
	c := Build(e, []*Source{a}, nil)
	later := *a
	later.Fetched, later.Degraded = now.Add(time.Hour), "timeout"
	d := Build(e, []*Source{&later}, c)
	if c.Version() != d.Version() {
		t.Error("health changed the version")
	}
	if c.View("/mcp").Resolve(Tool, "a_x") != d.View("/mcp").Resolve(Tool, "a_x") {
		t.Error("an unchanged entry was made anew")
	}
	if r := d.Report(); r.Servers[0].Health != "degraded" || r.Servers[0].Degraded != "timeout" || r.Endpoints[0].Served[0].Modern[Tool] != 1 {
		t.Errorf("report %+v", r)
	}
	if c.Version() == Build(e, []*Source{source("a", true, "x", "y")}, c).Version() {
		t.Error("a new item did not change the version")
	}
	if b, err := json.Marshal(d.Report()); err != nil || !bytes.Contains(b, []byte(`"modern":{"tool":1}`)) {
		t.Errorf("%s %v", b, err)
	}
	if d.Source("a") != &later || d.Source("b") != nil {
		t.Error("sources are found by name")
	}
}

// servers draws configured servers, each with tools from a small set of names, so that they collide.
func servers(t *rapid.T) []*Source {
	var out []*Source
	for _, s := range []string{"a", "b", "c", "d"} {
		if !rapid.Bool().Draw(t, s+" configured") {
			continue
		}
		names := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"p", "q", "r", "s", "resource=t:1", "resource=t:2", "template=t:{a}"}), func(s string) string { return s }).Draw(t, s)
		out = append(out, source(s, rapid.Bool().Draw(t, s+" modern"), names...))
	}
	return out
}

func endpoint(t *rapid.T) Endpoint {
	e := Endpoint{Name: "e", Path: "/mcp", Servers: open, PageSize: rapid.IntRange(1, 4).Draw(t, "page"), Prefix: map[string]string{}}
	for _, s := range []string{"a", "b", "c", "d"} {
		if rapid.Bool().Draw(t, s+" bare") {
			e.Prefix[s] = ""
		}
	}
	return e
}

func bindings(v *View) map[string]string {
	out := map[string]string{}
	for _, k := range Kinds {
		for _, e := range v.Entries(k, Legacy) {
			out[k.String()+" "+e.Public] = e.Item.ID()
		}
	}
	return out
}

func TestPropertyNamesStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, all := []Endpoint{endpoint(t)}, servers(t)
		if len(all) == 0 {
			return
		}
		new := rapid.IntRange(0, len(all)-1).Draw(t, "added")
		c := Build(e, slices.Delete(slices.Clone(all), new, new+1), nil)
		before := bindings(c.View("/mcp"))
		after := bindings(Build(e, all, c).View("/mcp"))
		for public, id := range before {
			if after[public] != id {
				t.Fatalf("%s was %s, is %q after %s came", public, id, after[public], all[new].Server)
			}
		}
		// A server that restarts with fewer items and then all again changes no one's names.
		c = Build(e, all, nil)
		before = bindings(c.View("/mcp"))
		fewer := slices.Clone(all)
		fewer[new] = &Source{Server: all[new].Server, Modern: all[new].Modern}
		c = Build(e, fewer, c)
		for public, id := range bindings(c.View("/mcp")) {
			if before[public] != id {
				t.Fatalf("%s became %s while %s was away", public, id, all[new].Server)
			}
		}
		if diff := cmp.Diff(before, bindings(Build(e, all, c).View("/mcp"))); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestPropertyListsResolveAndPage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, all := []Endpoint{endpoint(t)}, servers(t)
		c := Build(e, all, nil)
		if d := Build(e, all, nil); c.Version() != d.Version() {
			t.Fatal("two builds of one input differ")
		}
		v := c.View("/mcp")
		for _, k := range Kinds {
			for _, era := range []Era{Modern, Legacy} {
				var visible []*Entry
				for _, e := range v.Entries(k, era) {
					if got := v.Resolve(k, e.Public); got != e || !e.In(era) {
						t.Fatalf("%q resolves to %v", e.Public, got)
					}
					if k == Resource && v.ResolveURI(e.Public) != e {
						t.Fatalf("%q does not resolve as a URI", e.Public)
					}
					if rapid.Bool().Draw(t, "visible") {
						visible = append(visible, e)
					}
				}
				var seen []*Entry
				for cursor, n := "", 0; ; n++ {
					page, next, err := v.Page(visible, cursor)
					if err != nil || n > len(visible) {
						t.Fatal(n, err)
					}
					seen = append(seen, page...)
					if next == "" {
						break
					}
					cursor = next
				}
				if !slices.Equal(seen, visible) {
					t.Fatalf("pages show %d of %d", len(seen), len(visible))
				}
				if !json.Valid(v.AppendList(nil, k, era, seen, "")) {
					t.Fatal("a list is not JSON")
				}
			}
		}
	})
}

// thousand is 1,000 tools over 20 servers, with schemas of an ordinary size.
func thousand() ([]Endpoint, []*Source) {
	var out []*Source
	for s := range 20 {
		var names []string
		for n := range 50 {
			names = append(names, fmt.Sprintf(`raw={"name":"tool_%d","description":"does something useful, number %d","inputSchema":{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}}`, n, n))
		}
		out = append(out, source(fmt.Sprintf("server-%02d", s), true, names...))
	}
	return []Endpoint{{Name: "e", Path: "/mcp", Servers: open}}, out
}

func BenchmarkBuild1000(b *testing.B) {
	e, s := thousand()
	b.ReportAllocs()
	for b.Loop() {
		Build(e, s, nil)
	}
}

func BenchmarkRebuild1000(b *testing.B) {
	e, s := thousand()
	c := Build(e, s, nil)
	b.ReportAllocs()
	for b.Loop() {
		c = Build(e, s, c)
	}
}

func BenchmarkAppendList1000(b *testing.B) {
	e, s := thousand()
	v := Build(e, s, nil).View("/mcp")
	dst := v.AppendList(nil, Tool, Modern, v.Entries(Tool, Modern), "")
	b.SetBytes(int64(len(dst)))
	b.ReportAllocs()
	for b.Loop() {
		dst = v.AppendList(dst[:0], Tool, Modern, v.Entries(Tool, Modern), "")
	}
}

// The worst that templates can cost: one server's bound of them, all with the same literal beginning, and the longest URI.
func BenchmarkResolveURIWorst(b *testing.B) {
	var names []string
	for n := range MaxTemplates {
		names = append(names, fmt.Sprintf("template=t:{+a}%d", n))
	}
	v := Build([]Endpoint{{Name: "e", Path: "/mcp", Servers: open}}, []*Source{source("s", true, names...)}, nil).View("/mcp")
	uri := "t:" + strings.Repeat("x", maxURI-2)
	for b.Loop() {
		if v.ResolveURI(uri) != nil {
			b.Fatal("matched")
		}
	}
}
