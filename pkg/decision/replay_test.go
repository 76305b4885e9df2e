package decision

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// compiled makes an engine of rules of package mcpgw.policy.
func compiled(t testing.TB, body string) *opa.Engine {
	t.Helper()
	e, err := opa.Load(opa.Options{Modules: []opa.File{{Name: "policy.rego", Text: []byte("package mcpgw.policy\n" + body)}}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// quickstart is the quick start's policy.
func quickstart(t testing.TB) *opa.Engine {
	t.Helper()
	files, err := opa.ReadDir("../../examples/quickstart/policy")
	if err != nil {
		t.Fatal(err)
	}
	e, err := opa.Load(opa.Options{Modules: files})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

const (
	oldRules = `allow if input.action.name == "tools/call"
deny contains "git_log shows 1 to 50" if { input.resource.name == "git_log"; not few }
few if input.arguments.max_count <= 50
deny contains "old words" if input.resource.name == "reset"
`
	newRules = `allow if input.action.name == "tools/call"
deny contains "git_log shows 1 to 20" if { input.resource.name == "git_log"; not few }
few if input.arguments.max_count <= 20
deny contains "new words" if input.resource.name == "reset"
redact contains {"path": "/structuredContent/key"} if input.resource.name == "status"
`
)

// call is a question of ann's; n makes its id, its time and an argument that no policy reads.
func call(n int, role, item string, count int) *policy.Question {
	return &policy.Question{
		Subject: &identity.Principal{Type: "user", ID: "ann", Roles: []string{role}}, Action: "tools/call", Item: &catalog.Item{Server: "git", Name: item, Annotations: []byte(`{"readOnlyHint":true}`)},
		Arguments: fmt.Appendf(nil, `{"max_count":%d,"repo_path":"/r/%d","password":"p%d"}`, count, n, n),
		Context:   policy.Context{Endpoint: "mcp", Era: "modern", RequestID: fmt.Sprintf("d%d", n), Time: time.Unix(int64(1700000000+n), 0)},
	}
}

// written is the log of an engine's rulings.
func written(t testing.TB, e policy.Engine, r *Rules, questions ...*policy.Question) []byte {
	t.Helper()
	var b []byte
	for _, q := range questions {
		line, err := r.line(&Entry{q, e.Decide(context.Background(), q)})
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, line...)
	}
	return b
}

// traffic is calls of which, from old rules to new, those with 21 to 50 commits and those of status change.
func traffic(n int) (questions []*policy.Question, denied, redacted int) {
	for i := range n {
		q := call(i, "reader", []string{"git_log", "git_log", "git_log", "status", "reset"}[i%5], []int{5, 30, 60}[i%5%3])
		questions = append(questions, q)
		switch i % 5 {
		case 1:
			denied++
		case 3:
			redacted++
		}
	}
	return questions, denied, redacted
}

func replay(t testing.TB, o ReplayOptions, logs ...[]byte) *ReplayReport {
	t.Helper()
	r := NewReplay(t.Context(), o)
	for i, log := range logs {
		if err := r.Read(t.Context(), fmt.Sprintf("log%d", i), bytes.NewReader(log)); err != nil {
			t.Error(err)
		}
	}
	return r.Report()
}

func zipped(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(b)
	_ = w.Close()
	return z.Bytes()
}

func TestReplayFindsWhatChanges(t *testing.T) {
	old, next := compiled(t, oldRules), compiled(t, newRules)
	questions, denied, redacted := traffic(500)
	log := written(t, old, rules(t, ""), questions...)
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	array := append(append([]byte("["), bytes.Join(lines, []byte(","))...), ']')
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, array, "", "  "); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"lines": log, "gzip": zipped(log), "array": array, "array and newline": append(array, '\n'), "indented array": pretty.Bytes(), "arrays": append(append(array, '\n'), "[]"...)} {
		t.Run(name, func(t *testing.T) {
			before := next.Evaluations()
			r := replay(t, ReplayOptions{Engine: next, MayRead: next.MayRead, Workers: 1}, text)
			if r.Entries != 500 || r.Compared != 500 || r.Changed != uint64(denied+redacted) || r.Reworded != 200 || r.Unusable+r.Masked+r.Foreign+r.Truncated+r.Failed != 0 {
				t.Errorf("%+v", r)
			}
			if len(r.Causes) != 2 {
				t.Fatalf("causes: %+v", r.Causes)
			}
			for _, c := range r.Causes {
				var want ReplayCause
				switch c.After.Ruling {
				case "deny":
					want = ReplayCause{Before: ReplayRuling{"allow", ""}, After: ReplayRuling{"deny", "deny: git_log shows 1 to 20"}, Count: uint64(denied)}
				default:
					want = ReplayCause{Before: ReplayRuling{"allow", ""}, After: ReplayRuling{"allow+redact", ""}, Count: uint64(redacted)}
				}
				if c.Before != want.Before || c.After != want.After || c.Count != want.Count || len(c.Where) != 1 || c.Where[0].Roles != "reader" || len(c.Where[0].Examples) != maxExamples {
					t.Errorf("got %+v, want %+v", c, want)
				}
			}
			if r.Revisions[old.Revision()] != 500 || r.Revision != next.Revision() || !r.From.Equal(questions[0].Context.Time) || !r.To.Equal(questions[499].Context.Time) {
				t.Errorf("revisions %v, from %v to %v", r.Revisions, r.From, r.To)
			}
			// Three counts of git_log; the other two items differ in nothing but the count.
			if n := next.Evaluations() - before; n > 9 {
				t.Errorf("500 questions of at most 9 kinds were evaluated %d times", n)
			}
		})
	}
	if r := replay(t, ReplayOptions{Engine: old, MayRead: old.MayRead}, log, zipped(log)); r.Compared != 1000 || r.Changed+r.Reworded != 0 {
		t.Errorf("the same policy: %+v", r)
	}
}

func TestReplayDoesNotGuess(t *testing.T) {
	old := compiled(t, oldRules)
	questions, _, _ := traffic(50)
	next := compiled(t, newRules)
	for _, tc := range []struct {
		name, mask                 string
		masked, compared, reworded uint64
	}{
		{"what nobody reads", `mask contains "/input/arguments/password"`, 0, 50, 20},
		{"what the new policy reads", `mask contains "/input/arguments/max_count" if input.input.resource.name == "status"`, 10, 40, 20},
		{"all arguments", `mask contains "/input/arguments"`, 50, 0, 0},
		{"all", `mask contains "/input"`, 50, 0, 0},
		{"replaced", `mask contains {"op": "upsert", "path": "/input/arguments/max_count", "value": 1}`, 50, 0, 0},
		{"the ruling", `mask contains "/result/effect"`, 50, 0, 0},
		{"the whole result", `mask contains "/result"`, 50, 0, 0},
		{"the reasons", `mask contains "/result/reasons"`, 0, 50, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := replay(t, ReplayOptions{Engine: next, MayRead: next.MayRead}, written(t, old, rules(t, tc.mask), questions...))
			if r.Entries != 50 || r.Masked != tc.masked || r.Compared != tc.compared || r.Reworded != tc.reworded || r.Unusable != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestReplayReadsBadLogs(t *testing.T) {
	old := compiled(t, oldRules)
	good := string(written(t, old, rules(t, ""), call(1, "reader", "git_log", 5)))
	foreign := strings.Replace(good, "mcpgw/main/ruling", "other/allow", 1)
	for _, tc := range []struct {
		name, log string
		want      ReplayReport
		line      int
	}{
		{"empty", "", ReplayReport{}, 0},
		{"a cut last line", good + good[:len(good)/2], ReplayReport{Entries: 1, Compared: 1, Truncated: 1}, 0},
		{"a cut line in between", good + good[:len(good)/2] + "\n" + good, ReplayReport{Entries: 2, Compared: 2, Unusable: 1}, 2},
		{"no newline at the end", good + strings.TrimSpace(good), ReplayReport{Entries: 2, Compared: 2}, 0},
		{"the gateway's log", "time=now level=INFO\n" + `{"level":"INFO","msg":"exchange","decision_id":"d"}` + "\n\n" + good, ReplayReport{Entries: 1, Compared: 1, Foreign: 2}, 0},
		{"another path", foreign, ReplayReport{Entries: 1, OtherPath: 1}, 0},
		{"no effect", strings.Replace(good, `"effect":"allow"`, `"effect":"perhaps"`, 1), ReplayReport{Entries: 1, Unusable: 1}, 1},
		{"another question", strings.Replace(good, `"subject":`, `"user":`, 1), ReplayReport{Entries: 1, Unusable: 1}, 1},
		{"a member twice", strings.Replace(good, `"path":`, `"path":"x","path":`, 1), ReplayReport{Unusable: 1}, 1},
		{"a cut array", "[" + strings.TrimSpace(good) + ",\n" + good[:100], ReplayReport{Entries: 1, Compared: 1, Truncated: 1}, 0},
		{"no array", "[" + good + "x]", ReplayReport{Entries: 1, Compared: 1, Unusable: 1}, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := replay(t, ReplayOptions{Engine: old, MayRead: old.MayRead, Path: "mcpgw/main/ruling"}, []byte(tc.log))
			got := ReplayReport{Entries: r.Entries, Compared: r.Compared, Foreign: r.Foreign, Unusable: r.Unusable, Truncated: r.Truncated, OtherPath: r.OtherPath, Masked: r.Masked}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
			if tc.line > 0 && (len(r.Faults) != 1 || r.Faults[0].Line != tc.line || r.Faults[0].File != "log0") {
				t.Errorf("faults %+v, want one at line %d", r.Faults, tc.line)
			}
		})
	}
	cut := zipped([]byte(strings.Repeat(good, 50)))
	if r := replay(t, ReplayOptions{Engine: old}, cut[:len(cut)-20]); r.Truncated != 1 {
		t.Errorf("a cut gzip: %+v", r)
	}
	many := replay(t, ReplayOptions{Engine: old}, []byte(strings.Repeat("{bad\n", 1000)))
	if many.Unusable != 1000 || len(many.Faults) != maxFaults {
		t.Errorf("%d unusable, %d kept", many.Unusable, len(many.Faults))
	}
}

func TestReplayContainsTheNewPolicy(t *testing.T) {
	old := compiled(t, oldRules)
	next := compiled(t, `allow if to_number(input.resource.name) > 1`)
	r := replay(t, ReplayOptions{Engine: next, MayRead: next.MayRead}, written(t, old, rules(t, ""), call(1, "reader", "status", 1)))
	if r.Failed != 1 || r.Changed != 1 || r.Causes[0].After.Ruling != "error" {
		t.Errorf("%+v", r)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	c := NewReplay(ctx, ReplayOptions{Engine: old})
	if err := c.Read(ctx, "x", strings.NewReader("{}\n")); err == nil {
		t.Error("a replay that was cancelled is whole")
	}
	c.Report()
}

func TestLogFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.log", "a.log.1", ".hidden", "sub/c.log.gz"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := LogFiles(dir)
	if err != nil || len(got) != 3 || filepath.Base(got[0]) != "a.log.1" {
		t.Errorf("%v, %v", got, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if got, err := LogFiles(link); err != nil || len(got) != 3 {
		t.Errorf("by a link: %v, %v", got, err)
	}
	if _, err := LogFiles(filepath.Join(dir, "none")); err == nil {
		t.Error("nothing is no log")
	}
	if _, err := LogFiles(t.TempDir()); err == nil {
		t.Error("an empty directory is no log")
	}
}

// BenchmarkReplay: one operation is a log of 10,000 decisions of the quick start.
func BenchmarkReplay(b *testing.B) {
	e := quickstart(b)
	r, err := NewRules(b.Context(), RulesOptions{Path: "mcpgw/main/ruling", ID: "here"})
	if err != nil {
		b.Fatal(err)
	}
	questions, _, _ := traffic(10_000)
	log := written(b, e, r, questions...)
	b.SetBytes(int64(len(log)))
	b.ReportAllocs()
	for b.Loop() {
		report := replay(b, ReplayOptions{Engine: e, MayRead: e.MayRead}, log)
		if report.Compared != uint64(len(questions)) || report.Changed != 0 {
			b.Fatalf("%+v", report)
		}
	}
	b.ReportMetric(float64(len(questions)*b.N)/b.Elapsed().Seconds(), "decisions/s")
}
