package approval

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func store() (*Store, *clock) {
	c := &clock{time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	return New(c.now), c
}

func of(principal, arguments string) Binding {
	return Binding{Principal: principal, Call: Digest([]byte("push"), []byte(arguments)), Revision: "r1", Asked: Digest([]byte("sure?"))}
}

var limits = Limits{Expiry: time.Minute, Max: 10, PerPrincipal: 3}

func TestUsersAnswer(t *testing.T) {
	s, c := store()
	b := of("alice", "{}")
	id, expires, err := s.Ask(b, limits)
	if err != nil || len(id) < 26 || !expires.Equal(c.t.Add(time.Minute)) {
		t.Fatalf("%q %v %v", id, expires, err)
	}
	if len(s.List()) != 0 {
		t.Error("an operator sees what a user is asked")
	}
	if _, err := s.Decide(id, "olga", true, "r1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("an operator answers for the user: %v", err)
	}
	other := b
	other.Call = Digest([]byte("push"), []byte(`{"force":true}`))
	for name, tc := range map[string]struct {
		id string
		b  Binding
		e  error
	}{
		"forged":         {"AAAAAAAAAAAAAAAAAAAAAAAAAA", b, ErrUnknown},
		"empty":          {"", b, ErrUnknown},
		"of another":     {id, of("bob", "{}"), ErrUnknown},
		"other argument": {id, other, ErrOther},
	} {
		if g, err := s.Answer(tc.id, tc.b, true); g != nil || !errors.Is(err, tc.e) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Waiting(tc.id, tc.b); !errors.Is(err, tc.e) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := s.Round(id, "alice", b.Call, [32]byte{}); n != 1 {
		t.Errorf("round %d", n)
	}
	g, err := s.Answer(id, b, true)
	if err != nil || g == nil || g.By != "" {
		t.Fatalf("%v %v", g, err)
	}
	if _, err := s.Answer(id, b, true); !errors.Is(err, ErrUnknown) {
		t.Errorf("an answer counts twice: %v", err)
	}
	g.Done()
	g.Done()
	if s.Len() != 0 {
		t.Errorf("%d are left", s.Len())
	}
}

func TestAnswersEnd(t *testing.T) {
	s, c := store()
	b := of("alice", "{}")
	id, _, _ := s.Ask(b, limits)
	c.t = c.t.Add(time.Minute)
	if _, err := s.Answer(id, b, true); !errors.Is(err, ErrUnknown) || s.Len() != 0 {
		t.Errorf("an expired question is answered: %v", err)
	}
	id, _, _ = s.Ask(b, limits)
	if g, err := s.Answer(id, b, false); g != nil || err != nil || s.Len() != 0 {
		t.Errorf("a no: %v %v", g, err)
	}
	if _, err := s.Answer(id, b, true); !errors.Is(err, ErrUnknown) {
		t.Errorf("a no becomes a yes: %v", err)
	}
	id, _, _ = s.Ask(b, limits)
	reloaded := b
	reloaded.Revision = "r2"
	if _, err := s.Answer(id, reloaded, true); !errors.Is(err, ErrChanged) || s.Len() != 0 {
		t.Errorf("under another policy: %v", err)
	}
	id, _, _ = s.Ask(b, limits)
	why := b
	why.Asked = Digest([]byte("sure?"), []byte("really?"))
	if _, err := s.Answer(id, why, true); !errors.Is(err, ErrChanged) {
		t.Errorf("for another reason: %v", err)
	}
	id, _, _ = s.Ask(b, limits)
	s.Withdraw(id, "bob")
	if s.Len() != 1 {
		t.Error("another principal withdraws a question")
	}
	s.Withdraw(id, "alice")
	if s.Len() != 0 {
		t.Error("a question that was withdrawn is there")
	}
}

func TestOperatorsAnswer(t *testing.T) {
	s, c := store()
	b := of("alice", "{}")
	q, g, err := s.Request(b, About{Principal: "alice", Reasons: []string{"sure?"}}, limits)
	if err != nil || g != nil || q.State != Pending {
		t.Fatalf("%+v %v %v", q, g, err)
	}
	c.t = c.t.Add(50 * time.Second)
	if again, g, _ := s.Request(b, About{}, limits); again.ID != q.ID || g != nil {
		t.Error("an equal call asks twice")
	}
	if _, err := s.Answer(q.ID, b, true); !errors.Is(err, ErrUnknown) {
		t.Errorf("a user answers for the operator: %v", err)
	}
	if l := s.List(); len(l) != 1 || l[0].ID != q.ID || l[0].Principal != "alice" {
		t.Errorf("%+v", l)
	}
	if _, err := s.Decide(q.ID, "olga", true, "r2"); !errors.Is(err, ErrChanged) {
		t.Errorf("an answer that no call can use: %v", err)
	}
	if d, err := s.Decide(q.ID, "olga", false, "r1"); err != nil || d.State != Denied || d.By != "olga" {
		t.Errorf("%+v %v", d, err)
	}
	if d, g, _ := s.Request(b, About{}, limits); d.State != Denied || g != nil {
		t.Errorf("%+v", d)
	}
	if d, err := s.Decide(q.ID, "omar", true, "r1"); err != nil || d.State != Approved || !d.Expires.Equal(c.t.Add(time.Minute)) {
		t.Errorf("%+v %v", d, err)
	}
	for _, near := range []Binding{of("bob", "{}"), of("alice", "{ }")} {
		if n, g, _ := s.Request(near, About{}, limits); g != nil || n.ID == q.ID {
			t.Errorf("%+v passes", near)
		}
	}
	_, g, err = s.Request(b, About{}, limits)
	if err != nil || g == nil || g.By != "omar" {
		t.Fatalf("%v %v", g, err)
	}
	if again, g, _ := s.Request(b, About{}, limits); g != nil || again.ID == q.ID {
		t.Error("an answer counts twice")
	}
	if _, err := s.Decide(q.ID, "olga", false, "r1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("what was used is answered: %v", err)
	}
	c.t = c.t.Add(time.Minute)
	for _, l := range []string{q.ID, "", "x"} {
		if _, err := s.Decide(l, "olga", true, "r1"); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", l, err)
		}
	}
	if s.Len() != 0 || len(s.List()) != 0 {
		t.Error("something outlives its expiry")
	}
	g.Done() // after its entry has expired
}

func TestRounds(t *testing.T) {
	s, c := store()
	b, first, second := of("alice", "{}"), Digest([]byte("one")), Digest([]byte("two"))
	id, _, _ := s.Ask(b, limits)
	g, _ := s.Answer(id, b, true)
	g.Continue(first)
	g.Done() // nothing any more
	if n := s.Round("", "alice", b.Call, first); n != 2 {
		t.Errorf("round %d", n)
	}
	for name, tc := range map[string]struct {
		b     Binding
		state [32]byte
	}{
		"another state": {b, second}, "another principal": {of("bob", "{}"), first}, "another argument": {of("alice", "[]"), first},
	} {
		if _, err := s.Resume(tc.b, tc.state); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	g, err := s.Resume(b, first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume(b, first); !errors.Is(err, ErrUnknown) {
		t.Errorf("a round counts twice: %v", err)
	}
	g.Continue(second)
	if n := s.Round("", "alice", b.Call, second); n != 3 {
		t.Errorf("round %d", n)
	}
	reloaded := b
	reloaded.Revision = "r2"
	if _, err := s.Resume(reloaded, second); !errors.Is(err, ErrChanged) || s.Len() != 0 {
		t.Errorf("%v", err)
	}

	twins := make([]*Grant, 2) // two equal calls whose server tells both the same
	for n := range twins {
		id, _, _ := s.Ask(b, limits)
		twins[n], _ = s.Answer(id, b, true)
	}
	twins[0].Continue(first)
	twins[1].Continue(first)
	if g, err := s.Resume(b, first); err != nil {
		t.Error(err)
	} else {
		g.Done()
	}
	if _, err := s.Resume(b, first); !errors.Is(err, ErrUnknown) || s.Len() != 0 {
		t.Errorf("%v, %d are left", err, s.Len())
	}

	id, _, _ = s.Ask(b, limits)
	g, _ = s.Answer(id, b, true)
	c.t = c.t.Add(time.Minute)
	g.Continue(first)
	if _, err := s.Resume(b, first); !errors.Is(err, ErrUnknown) {
		t.Errorf("a round outlives its expiry: %v", err)
	}
	var none *Grant
	none.Done()
}

// TestBounds: who asks too much is refused, and nobody else.
func TestBounds(t *testing.T) {
	s, c := store()
	for n := range limits.PerPrincipal {
		if _, _, err := s.Ask(of("flood", fmt.Sprint(n)), limits); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Ask(of("flood", "more"), limits); !errors.Is(err, ErrPrincipal) {
		t.Errorf("%v", err)
	}
	if _, _, err := s.Request(of("flood", "more"), About{}, limits); !errors.Is(err, ErrPrincipal) {
		t.Errorf("%v", err)
	}
	quiet, _, err := s.Request(of("quiet", ""), About{}, limits)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; s.Len() < limits.Max; n++ {
		if _, _, err := s.Ask(of(fmt.Sprint(n), ""), limits); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Ask(of("late", ""), limits); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	if l := s.List(); len(l) != 1 || l[0].ID != quiet.ID {
		t.Errorf("a question was pushed out: %+v", l)
	}
	c.t = c.t.Add(time.Minute)
	if _, _, err := s.Ask(of("flood", "more"), limits); err != nil || s.Len() != 1 {
		t.Errorf("what has expired takes a place: %v", err)
	}
}

// model is what a store promises, kept in the simplest way.
type model struct {
	s         *Store
	c         *clock
	questions []*asked
	grants    []*passing
}

type asked struct {
	id      string
	b       Binding
	user    bool
	yes     bool // an operator's
	denied  bool
	gone    bool
	expires time.Time
}

// passing is one human's yes that was handed out.
type passing struct {
	g       *Grant
	b       Binding
	state   [32]byte
	waits   bool
	over    bool
	expires time.Time
}

// TestStore: whatever callers, users, operators and time do, a grant needs a human's yes to this very binding, comes once, and not late;
// bounds hold.
func TestStore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, c := store()
		m := &model{s: s, c: c}
		principals, words := []string{"alice", "bob", "carol", "dan"}, []string{"{}", "{ }", `{"a":1}`}
		states := [][32]byte{{}, Digest([]byte("s"))}
		binding := func(t *rapid.T) Binding {
			b := of(rapid.SampledFrom(principals).Draw(t, "principal"), rapid.SampledFrom(words).Draw(t, "arguments"))
			b.Revision = rapid.SampledFrom([]string{"r1", "r1", "r1", "r2"}).Draw(t, "revision")
			return b
		}
		ask := func(t *rapid.T) {
			b := binding(t)
			if id, expires, err := s.Ask(b, limits); err == nil {
				m.questions = append(m.questions, &asked{id: id, b: b, user: true, expires: expires})
			}
		}
		ask(t) // so that there always is one to act on
		pick := func(t *rapid.T) *asked {
			return rapid.SampledFrom(m.questions).Draw(t, "question")
		}
		live := func(q *asked) bool { return !q.gone && m.c.t.Before(q.expires) }
		t.Repeat(map[string]func(*rapid.T){
			"ask": ask,
			"answer": func(t *rapid.T) {
				q, b := pick(t), binding(t)
				if rapid.Bool().Draw(t, "its own binding") {
					b = q.b
				}
				yes := rapid.Bool().Draw(t, "yes")
				g, err := s.Answer(q.id, b, yes)
				if want := live(q) && q.user && q.b == b; (err == nil) != want || (g != nil) != (want && yes) {
					t.Fatalf("%+v answered for %+v: %v %v", q, b, g, err)
				}
				if err == nil || errors.Is(err, ErrChanged) {
					q.gone = true
				}
				if g != nil {
					m.grants = append(m.grants, &passing{g: g, b: b, expires: c.t.Add(limits.Expiry)})
				}
			},
			"request": func(t *rapid.T) {
				b := binding(t)
				got, g, err := s.Request(b, About{}, limits)
				var q *asked
				for _, old := range m.questions {
					if live(old) && !old.user && old.b == b {
						q = old
					}
				}
				if (g != nil) != (q != nil && q.yes) || err != nil && q != nil {
					t.Fatalf("%+v: a grant %v of %+v (%v)", b, g, q, err)
				}
				switch {
				case g != nil:
					q.gone = true
					m.grants = append(m.grants, &passing{g: g, b: b, expires: q.expires})
				case q != nil && (got.ID != q.id || (got.State == Denied) != q.denied):
					t.Fatalf("%+v is told as %+v", q, got)
				case q == nil && err == nil:
					m.questions = append(m.questions, &asked{id: got.ID, b: b, expires: got.Expires})
				}
			},
			"decide": func(t *rapid.T) {
				q, yes := pick(t), rapid.Bool().Draw(t, "yes")
				_, err := s.Decide(q.id, "olga", yes, "r1")
				if want := live(q) && !q.user && q.b.Revision == "r1"; (err == nil) != want {
					t.Fatalf("%+v decided: %v", q, err)
				}
				if err == nil {
					q.yes, q.denied, q.expires = yes, !yes, c.t.Add(limits.Expiry)
				}
			},
			"end": func(t *rapid.T) {
				for _, p := range m.grants {
					if p.over || p.waits {
						continue
					}
					if rapid.Bool().Draw(t, "continue") {
						p.state, p.waits = rapid.SampledFrom(states).Draw(t, "state"), c.t.Before(p.expires)
						for _, twin := range m.grants {
							if twin != p && twin.waits && !twin.over && c.t.Before(twin.expires) && twin.b.Principal == p.b.Principal && twin.b.Call == p.b.Call && twin.state == p.state {
								p.waits = false
							}
						}
						p.over = !p.waits
						p.g.Continue(p.state)
					} else {
						p.over = true
					}
					p.g.Done()
				}
			},
			"resume": func(t *rapid.T) {
				b, state := binding(t), rapid.SampledFrom(states).Draw(t, "state")
				var p *passing
				for _, w := range m.grants {
					if w.waits && !w.over && c.t.Before(w.expires) && w.b.Principal == b.Principal && w.b.Call == b.Call && w.state == state {
						p = w
					}
				}
				g, err := s.Resume(b, state)
				if (g != nil) != (p != nil && p.b == b) || (g != nil) != (err == nil) {
					t.Fatalf("%+v comes back to %+v: %v", b, p, err)
				}
				if p != nil {
					p.over = true
				}
				if g != nil {
					m.grants = append(m.grants, &passing{g: g, b: b, expires: p.expires})
				}
			},
			"withdraw": func(t *rapid.T) {
				q := pick(t)
				s.Withdraw(q.id, q.b.Principal)
				q.gone = q.gone || q.user
			},
			"wait": func(t *rapid.T) {
				c.t = c.t.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			},
			"": func(t *rapid.T) {
				held := map[string]int{}
				for _, q := range m.questions {
					if live(q) {
						held[q.b.Principal]++
					}
				}
				for _, p := range m.grants {
					if !p.over && c.t.Before(p.expires) {
						held[p.b.Principal]++
					}
				}
				all := 0
				for principal, n := range held {
					if all += n; n > limits.PerPrincipal {
						t.Fatalf("%s has %d", principal, n)
					}
				}
				if s.Len() != all || all > limits.Max {
					t.Fatalf("there are %d, the store says %d", all, s.Len())
				}
				if len(s.principal) > all || len(s.byID) > all || len(s.operator) > all || len(s.rounds) > all {
					t.Fatal("an index outlives what it is for")
				}
			},
		})
	})
}

func TestShow(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{``, ``},
		{`{ }`, `{}`},
		{`{"a": [1, {"b":null}, true], "n": 9007199254740993.0, "e":[], "o":{ "x":{}}}`, `{"a":[1,{"b":null},true],"n":9007199254740993.0,"e":[],"o":{"x":{}}}`},
		{`{"password":"hunter2","x":1,"API-Key":{"deep":["hunter2"]},"y":{"Auth_Token":5,"z":"ok"}}`, `{"password":"***","x":1,"API-Key":"***","y":{"Auth_Token":"***","z":"ok"}}`},
		{`{"to":"a\u202eb\u0007\n\"c\\","ünï":"日本"}`, `{"to":"a\u202eb\u0007\n\"c\\","ünï":"日本"}`},
		{"{\"raw\":\"\u202e\u200b\U000e0041\"}", `{"raw":"\u202e\u200b\U000e0041"}`},
		{`{"a":`, `(unreadable)`},
		{`{"pwd":"hunter2","PIN":1234,"pinned":true,"passage":"x"}`, `{"pwd":"***","PIN":"***","pinned":true,"passage":"x"}`},
		{`{"headers":["X: Bearer hunter2hunter2","Accept: a"]}`, `{"headers":["X: ***","Accept: a"]}`},
		{`{"url":"https://ann:hunter2@host/x","mail":"ann@host"}`, `{"url":"https://***@host/x","mail":"ann@host"}`},
		{`{"key":"-----BEGIN RSA PRIVATE KEY-----\nhunter2\nx"}`, `{"key":"***"}`},
	} {
		if got := Show([]byte(tc.in), 1000); got != tc.want {
			t.Errorf("%s\nis shown as %s\nwant        %s", tc.in, got, tc.want)
		}
	}
	long := `{"a":"` + strings.Repeat("é", 5000) + `","password":"hunter2"}`
	if got := Show([]byte(long), 101); len(got) > 140 || !strings.HasSuffix(got, fmt.Sprintf("… (%d bytes in all)", len(long))) || !strings.HasPrefix(got, `{"a":"éé`) || strings.Contains(got, "\ufffd") {
		t.Errorf("%q", got)
	}
	many := "{" + strings.Repeat(`"k":[[[1]]],`, 1) + `"l":[` + strings.Repeat("1,", 10000) + "1]}"
	if got := Show([]byte(many), 50); len(got) > 100 {
		t.Errorf("%q", got)
	}
	for in, want := range map[string]string{"plain": "plain", "a\nb": `a\nb`, "\x1b[31m": `\u001b[31m`, `"q"`: `"q"`, "db://a:hunter2@h": "db://***@h", strings.Repeat("x", 99): strings.Repeat("x", 20) + "…"} {
		if got := Plain(in, 20); got != want {
			t.Errorf("%q is %q", in, got)
		}
	}
}

func TestDigestTellsListsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.SliceOf(rapid.ByteRange('a', 'b')), 0, 4)
		a, b := texts.Draw(t, "a"), texts.Draw(t, "b")
		if same := fmt.Sprint(a) == fmt.Sprint(b); same != (Digest(a...) == Digest(b...)) {
			t.Fatalf("%q and %q", a, b)
		}
	})
}
