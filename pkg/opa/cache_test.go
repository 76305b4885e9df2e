package opa

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// A ruling is reused for questions that differ only in what no rule reads, and for no others.
func TestKey(t *testing.T) {
	e := load(t, example+`
deny contains "no" if input.subject.claims.org == "evil"

deny contains "there" if input.context.endpoint == "/closed"
`, exampleGrants)
	base := func() *policy.Question {
		q := call(tool("git_log", `{"readOnlyHint":true,"other":1}`), `{"max_count":5,"path":"a"}`, "reader")
		q.Subject.Claims = []byte(`{"org":"good","x":1}`)
		return q
	}
	key := func(q *policy.Question) [32]byte {
		k, err := e.callKey(q, new(scratch))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	for name, tc := range map[string]struct {
		change func(q *policy.Question)
		same   bool
	}{
		"nothing":                {func(*policy.Question) {}, true},
		"unread argument":        {func(q *policy.Question) { q.Arguments = []byte(`{"max_count":5,"path":{"b":1},"more":null}`) }, true},
		"space between members":  {func(q *policy.Question) { q.Arguments = []byte(` { "max_count" :5, "path":"a" } `) }, true},
		"escaped name":           {func(q *policy.Question) { q.Arguments = []byte(`{"max\u005fcount":5,"path":"a"}`) }, true},
		"request id and time":    {func(q *policy.Question) { q.Context.RequestID = "r2"; q.Context.Time = q.Context.Time.Add(1e9) }, true},
		"unread claim":           {func(q *policy.Question) { q.Subject.Claims = []byte(`{"org":"good","exp":9}`) }, true},
		"unread subject":         {func(q *policy.Question) { q.Subject.ID, q.Subject.Scopes = "bob", []string{"s"} }, true},
		"unread annotation":      {func(q *policy.Question) { q.Item = tool("git_log", `{"readOnlyHint":true}`) }, true},
		"read argument":          {func(q *policy.Question) { q.Arguments = []byte(`{"max_count":6,"path":"a"}`) }, false},
		"its spelling":           {func(q *policy.Question) { q.Arguments = []byte(`{"max_count":5.0,"path":"a"}`) }, false},
		"its absence":            {func(q *policy.Question) { q.Arguments = []byte(`{"path":"a"}`) }, false},
		"null":                   {func(q *policy.Question) { q.Arguments = []byte(`{"max_count":null}`) }, false},
		"an argument's big text": {func(q *policy.Question) { q.Arguments = []byte(`{"max_count":"` + strings.Repeat("x", 5000) + `"}`) }, false},
		"read claim":             {func(q *policy.Question) { q.Subject.Claims = []byte(`{"org":"evil"}`) }, false},
		"its absence of claims":  {func(q *policy.Question) { q.Subject.Claims = nil }, false},
		"roles":                  {func(q *policy.Question) { q.Subject.Roles = []string{"reader", "writer"} }, false},
		"order of roles":         {func(q *policy.Question) { q.Subject.Roles = []string{"reade", "r"} }, false},
		"item":                   {func(q *policy.Question) { q.Item = tool("git_lo", `{"readOnlyHint":true}`) }, false},
		"server": {func(q *policy.Question) {
			q.Item = &catalog.Item{Server: "hg", Name: "git_log", Annotations: []byte(`{"readOnlyHint":true}`)}
		}, false},
		"annotation": {func(q *policy.Question) { q.Item = tool("git_log", `{"readOnlyHint":false}`) }, false},
		"endpoint":   {func(q *policy.Question) { q.Context.Endpoint = "/closed" }, false},
		"action":     {func(q *policy.Question) { q.Action = "prompts/get" }, false},
	} {
		q := base()
		tc.change(q)
		if same := key(q) == key(base()); same != tc.same {
			t.Errorf("%s: same key %v", name, same)
		}
	}
}

// The parts of a key cannot run into each other.
func TestKeyIsInjective(t *testing.T) {
	e := load(t, "package mcpgw.policy\n\nallow if {\n\tinput.subject.id == \"a\"\n\tinput.subject.tenant == \"b\"\n\tinput.arguments.a == input.arguments.b\n\tcount(input.subject.roles) > 1\n\tcount(input.subject.scopes) > 1\n}\n")
	seen := map[[32]byte]string{}
	long := strings.Repeat("x", digestFrom)
	for _, id := range []string{"", "a", "ab", "\x01a", long, long + "a"} {
		for _, tenant := range []string{"", "b", "bb", "\x01a", long} {
			for _, roles := range [][]string{nil, {""}, {"a"}, {"a", "b"}, {"ab"}} {
				for _, scopes := range [][]string{nil, {""}, {"a"}} {
					for _, arguments := range []string{``, `{}`, `{"a":1}`, `{"b":1}`, `{"a":1,"b":1}`, `{"a":"1"}`, `{"a":null}`} {
						q := call(tool("x", ""), arguments)
						q.Subject.ID, q.Subject.Tenant, q.Subject.Roles, q.Subject.Scopes = id, tenant, roles, scopes
						k, err := e.callKey(q, new(scratch))
						if err != nil {
							t.Fatal(err)
						}
						what := fmt.Sprintf("%q %q %q %q %s", id, tenant, roles, scopes, arguments)
						if other, ok := seen[k]; ok {
							t.Fatalf("%s and %s", what, other)
						}
						seen[k] = what
					}
				}
			}
		}
	}
}

// A new engine judges items that an older one has prepared.
func TestReload(t *testing.T) {
	i := tool("x", `{"readOnlyHint":true,"level":2}`)
	old := load(t, "package mcpgw.policy\n\nallow if input.resource.annotations.readOnlyHint\n")
	renewed := load(t, "package mcpgw.policy\n\nallow if input.resource.annotations.level > 5\n")
	for range 2 {
		if r := old.Decide(t.Context(), call(i, "")); r.Effect != policy.Allow {
			t.Errorf("%+v", r)
		}
		if r := renewed.Decide(t.Context(), call(i, "")); r.Effect != policy.Deny || r.Err != nil {
			t.Errorf("%+v", r)
		}
	}
}

// One caller's ever new arguments do not push out what others ask again and again.
func TestFloodKeepsTheCache(t *testing.T) {
	e, err := Load(Options{
		Modules:      []File{{"p.rego", []byte("package mcpgw.policy\n\nallow if input.arguments.n >= 0\n")}},
		CacheEntries: 200,
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(n int) bool { return e.Decide(t.Context(), call(tool("x", ""), fmt.Sprintf(`{"n":%d}`, n))).Cached }
	const regulars = 100
	for range 5 {
		for n := range regulars {
			ask(n)
		}
	}
	for n := range 5_000 {
		ask(1_000_000 + n)
		if n%10 == 0 { // the others go on asking, seldom
			ask(n / 10 % regulars)
		}
	}
	e.rulings.CleanUp()
	if size := e.rulings.EstimatedSize(); size > 200 {
		t.Errorf("%d entries, want at most 200", size)
	}
	kept := 0
	for n := range regulars {
		if ask(n) {
			kept++
		}
	}
	if kept < regulars/2 {
		t.Errorf("of %d regular questions %d are still remembered", regulars, kept)
	}
}

// What is too long to remember is answered all the same.
func TestLongReasonsAreNotRemembered(t *testing.T) {
	e := load(t, "package mcpgw.policy\n\nallow := true\n\ndeny contains message if {\n\tsome n in numbers.range(1, input.arguments.n)\n\tmessage := sprintf(\"reason %d\", [n])\n}\n")
	for n, want := range map[int]bool{2: true, maxReasons + 1: false} {
		q := call(tool("x", ""), fmt.Sprintf(`{"n":%d}`, n))
		e.Decide(t.Context(), q)
		if r := e.Decide(t.Context(), q); r.Cached != want || len(r.Reasons) != n || r.Err != nil {
			t.Errorf("%d: %+v", n, r)
		}
	}
}

func TestListKey(t *testing.T) {
	e := load(t, example, exampleGrants)
	q := call(nil, "", "reader")
	key, ok := e.ListKey(q)
	if !ok {
		t.Fatal("no list key")
	}
	other := call(tool("x", ""), `{"max_count":1}`, "reader")
	other.Subject.ID = "bob"
	if k, ok := e.ListKey(other); !ok || k != key {
		t.Error("all readers see the same, but have two list keys")
	}
	if k, ok := e.ListKey(call(nil, "", "writer")); !ok || k == key {
		t.Error("readers and writers have one list key")
	}
	if k, ok := load(t, example).ListKey(q); !ok || k == key {
		t.Error("two policies have one list key")
	}
	if _, ok := e.ListKey(&policy.Question{}); ok {
		t.Error("a list key without a subject")
	}
}

// A list that was asked for before needs no Rego.
func TestWarmList(t *testing.T) {
	e := load(t, example, exampleGrants)
	items := thousand()
	shown := list(t, e, items, "reader")
	cold := e.Evaluations()
	if again := list(t, e, items, "reader"); again != shown || shown == 0 || shown == len(items) {
		t.Errorf("shown %d, then %d of %d", shown, again, len(items))
	}
	if e.Evaluations() != cold {
		t.Errorf("%d evaluations for a warm list", e.Evaluations()-cold)
	}
	q := call(items[0], `{"a":1}`, "reader")
	e.Decide(t.Context(), q)
	before := e.Evaluations()
	e.Decide(t.Context(), q)
	if e.Evaluations() != before {
		t.Error("an evaluation for a cached ruling")
	}
}

// TestColdList: what a policy cannot tell apart is evaluated once, however many items there are.
func TestColdList(t *testing.T) {
	evaluations := func(items []*catalog.Item) uint64 {
		e := load(t, example, exampleGrants)
		list(t, e, items, "reader")
		return e.Evaluations()
	}
	var few, many []*catalog.Item
	for i := range 1000 {
		item := tool("t", []string{"", `{"readOnlyHint":true}`, `{"readOnlyHint":false}`}[i%3])
		item.Title, item.Digest = fmt.Sprint("title ", i), fmt.Sprint(i)
		if many = append(many, item); i < 3 {
			few = append(few, item)
		}
	}
	if one, thousand := evaluations(few), evaluations(many); one != thousand || one == 0 {
		t.Errorf("3 items that differ for the policy take %d evaluations, 1,000 items of these 3 sorts %d", one, thousand)
	}
}

func TestConcurrentUse(t *testing.T) {
	e := load(t, example, exampleGrants)
	items := thousand()[:40]
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			role := []string{"reader", "writer"}[g%2]
			for n := range 200 {
				i := items[(n*7+g)%len(items)]
				q := call(i, fmt.Sprintf(`{"max_count":%d}`, n%60), role)
				visible := see(t, e, q)
				if r := e.Decide(t.Context(), q); r.Err != nil || r.Effect == policy.Allow && !visible {
					t.Errorf("%s %s: %+v, visible %v", role, i.Name, r, visible)
				}
				e.ListKey(q)
				e.Reads(i)
			}
		})
	}
	group.Wait()
}

// thousand tools, of which every other reads only, and every tenth is bounded by its arguments.
func thousand() []*catalog.Item {
	items := make([]*catalog.Item, 1000)
	for n := range items {
		name := fmt.Sprint("tool_", n)
		if n%10 == 0 {
			name = "git_log"
		}
		items[n] = &catalog.Item{
			Server: fmt.Sprint("s", n/50), Kind: catalog.Tool, Name: name,
			Annotations: fmt.Appendf(nil, `{"readOnlyHint":%v}`, n%2 == 0),
			Claimed:     []byte(`{"description":"What it does.","title":"Tool"}`),
		}
	}
	return items
}

func list(t testing.TB, e *Engine, items []*catalog.Item, roles ...string) (shown int) {
	for _, i := range items {
		if see(t, e, call(i, "", roles...)) {
			shown++
		}
	}
	return shown
}
