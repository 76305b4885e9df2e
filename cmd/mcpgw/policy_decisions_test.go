package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/decision"
	"github.com/mcpgw/mcpgw/pkg/server"
)

func TestBudget(t *testing.T) {
	for _, tc := range []struct {
		text              string
		changed, compared uint64
		holds             bool
	}{
		{"0", 0, 10, true}, {"0", 1, 10, false}, {"5", 5, 10, true}, {"5", 6, 10, false}, {"0%", 1, 1000000, false}, {"0.5%", 5, 1000, true}, {"0.5%", 6, 1000, false}, {"100%", 10, 10, true},
	} {
		b, err := parseBudget(tc.text)
		if err != nil || b.holds(&decision.ReplayReport{Changed: tc.changed, Compared: tc.compared}) != tc.holds {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	for _, bad := range []string{"", "-1", "x", "101%", "-1%", "NaN%", "%", "1.5"} {
		if _, err := parseBudget(bad); err == nil {
			t.Errorf("%q is no budget", bad)
		}
	}
}

func TestDiff(t *testing.T) {
	a := "1\n2\n3\n4\n5\nold\nsame\ngone\n6\n7\n8\n9\n"
	b := "1\n2\n3\n4\n5\nnew\nsame\n6\n7\n8\n9\n"
	want := "@@ -3,9 +3,8 @@\n 3\n 4\n 5\n-old\n+new\n same\n-gone\n 6\n 7\n 8\n"
	if got := unified(a, b); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := unified("a", "b\n"); got != "@@ -1,1 +1,1 @@\n-a\n+b\n" {
		t.Errorf("got\n%s", got)
	}
}

func TestPrintShadow(t *testing.T) {
	at := time.Unix(1700000000, 0)
	r := &server.ShadowReport{Policy: "p1", Now: at.Add(time.Minute), ShadowReport: &decision.ShadowReport{
		Live: "p1", Shadow: "s1", Since: at, ShadowCounts: decision.ShadowCounts{Compared: 10, Disagreed: 7, Failed: 1, Skipped: 2},
		Rows: []decision.ShadowRow{{
			Disagreement: decision.Disagreement{Action: "tools/call", Server: "git", Kind: "tool", Item: "git_log", Live: "allow", Shadow: "deny"}, Count: 7,
			Callers: []decision.Caller{{Name: "user a", Count: 3}, {Name: "user b", Count: 1}, {Name: "user c", Count: 1}, {Name: "user d", Count: 1}, {Name: "user e", Count: 1}},
			Roles:   []decision.Caller{{Name: "reader", Count: 7}},
			Samples: []decision.Sample{{DecisionID: "d1", Time: at, Question: []byte(`{"q":1}`), Live: []byte(`{"l":1}`), Shadow: []byte(`{"s":1}`)}, {DecisionID: "d2"}},
		}},
	}}
	var out bytes.Buffer
	if err := printShadow(&out, r, 1); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"policy p1, shadow s1", "10 rulings compared in 1m0s: 7 would change, 1 could not be given, 2 skipped", "git_log", "reader 7", "user a 3, user b 1, user c 1, user d 1, and 1 more", "decision d1", `{"s":1}`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "d2") {
		t.Error("more examples than wanted")
	}
}

// TestPromoteRefuses: what cannot be promoted says what to do, and leaves the file as it is.
func TestPromoteRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("policy/p.rego", "package mcpgw.policy\nallow if true\n")
	write("policy/log.rego", "package system.log\ndrop if input.path == \"x\"\n")
	write("next/p.rego", "package mcpgw.policy\nallow if input.subject.id == \"a\"\n")
	write("bad/p.rego", "package mcpgw.policy\nalow if true\n")
	base := "listeners: [{address: \"127.0.0.1:0\", anonymous: {}}]\nadmin: {address: \"unix:" + filepath.Join(dir, "none.sock") + "\"}\n"
	t.Setenv("ENVOY", "")
	t.Setenv("PATH", "")
	for _, tc := range []struct{ name, policy, want string }{
		{"no shadow", "policy: {directory: policy}\n", "no policy.shadow; add"},
		{"a shadow that does not compile", "policy: {directory: policy, shadow: {directory: bad}}\n", "is allow meant?"},
		{"a mask that would be lost", "policy: {directory: policy, shadow: {directory: next}, decision_log: {console: true}}\n", "masks its decision log"},
		{"no file", "", "name a YAML file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(dir, "none.yaml")
			if tc.policy != "" {
				file = write("mcpgw.yaml", base+tc.policy)
			}
			c := root()
			c.SetArgs([]string{"policy", "promote", "--config", file})
			c.SetOut(new(bytes.Buffer))
			if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if text, err := os.ReadFile(file); tc.policy != "" && (err != nil || string(text) != base+tc.policy) {
				t.Errorf("%v: the file is now\n%s", err, text)
			}
		})
	}
	// Through a link, with nobody who runs: written all the same, beside the file itself, with its mode.
	file := write("deep/mcpgw.yaml", base+"policy: {directory: "+filepath.Join(dir, "policy")+", shadow: {directory: next}}\n")
	link := filepath.Join(dir, "link.yaml")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := root()
	c.SetArgs([]string{"policy", "promote", "--config", link})
	c.SetOut(&out)
	if err := c.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "from the next start") {
		t.Errorf("%v: %s", err, &out)
	}
	text, err := os.ReadFile(file)
	if err != nil || string(text) != base+"policy:\n  directory: next\n" {
		t.Errorf("%v: the file is now\n%s", err, text)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode is now %v, %v", info.Mode(), err)
	}
}

// told is a log that goes on once somebody has been told how far it is.
type told struct {
	first, rest *strings.Reader
	progress    chan struct{}
	once        sync.Once
}

func (r *told) Read(b []byte) (int, error) {
	if r.first.Len() > 0 {
		return r.first.Read(b)
	}
	select {
	case <-r.progress:
		return r.rest.Read(b)
	case <-time.After(time.Minute):
		return 0, errors.New("nobody was told how far it is")
	}
}

func (r *told) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(" lines of 1 files, ")) {
		r.once.Do(func() { close(r.progress) })
	}
	return len(b), nil
}

// TestReplayShowsProgress: what takes long says how far it is, on standard error.
func TestReplayShowsProgress(t *testing.T) {
	folder(t, map[string]string{"p/p.rego": goodPolicy})
	lines := strings.ReplaceAll(strings.Trim(loggedAllow, "[]"), "\n", " ") + "\n"
	r := &told{first: strings.NewReader(lines), rest: strings.NewReader(lines), progress: make(chan struct{})}
	c := root()
	var out bytes.Buffer
	c.SetIn(r)
	c.SetOut(&out)
	c.SetErr(r)
	c.SetArgs([]string{"policy", "replay", "--log", "-", "--policy", "p", "--budget", "2"})
	if err := c.Execute(); err != nil || !strings.Contains(out.String(), "2 of 2 rulings change (2 entries") {
		t.Errorf("%v\n%s", err, &out)
	}
}
