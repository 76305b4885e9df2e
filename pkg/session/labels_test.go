package session

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// openLabels opens a store that ends with the test.
func openLabels(t *testing.T, o LabelOptions) *Labels {
	t.Helper()
	l, err := OpenLabels(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func mark(t interface{ Fatal(...any) }, l *Labels, who string, labels ...string) bool {
	grew, err := l.Add(who, labels)
	if err != nil {
		t.Fatal(err)
	}
	return grew
}

// has checks what is known of a caller: labels, then "lost".
func has(t *testing.T, l *Labels, who string, want ...string) {
	t.Helper()
	got, lost := l.Get(who)
	if lost {
		got = append(got, "lost")
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s has %q, want %q", who, got, want)
	}
}

func TestLabelsInMemory(t *testing.T) {
	c := newClock()
	l := openLabels(t, LabelOptions{Expiry: time.Hour, Now: c.Now})
	has(t, l, "alice", "lost") // nobody knows what was before the start
	if !mark(t, l, "alice", "b", "a") || mark(t, l, "alice", "a") {
		t.Error("Add reports what is new wrongly")
	}
	has(t, l, "alice", "a", "b", "lost")
	c.advance(59 * time.Minute)
	mark(t, l, "alice", "a")
	c.advance(time.Minute)
	has(t, l, "bob")
	has(t, l, "alice", "a", "b") // b for a little longer than it must
	c.advance(10 * time.Minute)
	has(t, l, "alice", "a")
	c.advance(time.Hour)
	has(t, l, "alice")
	if mark(t, l, "carol", "x"); len(l.callers) != 1 {
		t.Errorf("%d callers are remembered, one has labels", len(l.callers))
	}
}

func TestLabelsAreBounded(t *testing.T) {
	c := newClock()
	l := openLabels(t, LabelOptions{File: filepath.Join(t.TempDir(), "labels"), Expiry: time.Hour, Callers: 2, Now: c.Now})
	mark(t, l, "a", "x")
	c.advance(10 * time.Minute)
	mark(t, l, "b", "x")
	has(t, l, "c")
	mark(t, l, "c", "x") // a is forgotten
	has(t, l, "b", "x")
	has(t, l, "a", "lost")
	has(t, l, "d", "lost") // it cannot be told from a
	mark(t, l, "a", "y")   // now b is forgotten; that a may have had more is not
	has(t, l, "a", "y", "lost")
	c.advance(2 * time.Hour)
	has(t, l, "a")
	has(t, l, "d")
	for i := range MaxLabels {
		mark(t, l, "many", fmt.Sprint(i))
	}
	for _, bad := range []string{"one more", "", strings.Repeat("x", MaxLabel+1), "\xff"} {
		if _, err := l.Add("many", []string{bad}); !errors.Is(err, ErrTooManyLabels) {
			t.Errorf("%.10q: %v", bad, err)
		}
	}
	if got, _ := l.Get("many"); len(got) != MaxLabels {
		t.Errorf("%d labels", len(got))
	}
}

func TestLabelsOutliveTheProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "labels")
	c := newClock()
	var told []string
	o := LabelOptions{File: file, Expiry: time.Hour, Now: c.Now, Warn: func(m string, _ error) { told = append(told, m) }}
	l := openLabels(t, o)
	has(t, l, "alice") // a file that was never there: nobody is marked
	if len(told) != 1 {
		t.Errorf("told %q", told)
	}
	mark(t, l, "alice", "secret", "ünïcödé\n")
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	b, _ := os.ReadFile(file)
	if strings.Contains(string(b), "alice") {
		t.Error("the file names callers")
	}
	size := len(b)
	mark(t, l, "alice", "secret")
	if b, _ = os.ReadFile(file); len(b) != size {
		t.Error("a label given again soon is written again")
	}
	if _, err := l.Add("late", []string{"x"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Add("later", []string{"x"}); err == nil {
		t.Error("a closed store takes labels")
	}
	l = openLabels(t, o)
	has(t, l, "alice", "secret", "ünïcödé\n")
	has(t, l, "bob")
	c.advance(2 * time.Hour)
	has(t, l, "alice")

	synctest.Test(t, func(t *testing.T) { // it waits for the first to end
		if _, err := OpenLabels(o); err == nil || !strings.Contains(err.Error(), "another process") {
			t.Errorf("a second process: %v", err)
		}
	})
	if left, _ := filepath.Glob(file + ".new-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestLabelFiles: what is no file of labels is not touched; what was cut by a kill was never acknowledged; what is damaged taints all.
func TestLabelFiles(t *testing.T) {
	const head = `{"mcpgw_labels":1}` + "\n"
	line := func(digit, rest string) string { return `{"caller":"` + strings.Repeat(digit, 64) + `"` + rest + "}\n" }
	for _, tc := range []struct {
		name, text string
		fault      string // of opening
		lost       bool
	}{
		{name: "empty"},
		{name: "head alone", text: head},
		{name: "cut line", text: head + line("a", "")[:40]},
		{name: "expired", text: head + line("a", `,"labels":{"x":1}`)},
		{name: "lost until long ago", text: `{"mcpgw_labels":1,"lost":1}` + "\n"},
		{name: "lost until later", text: `{"mcpgw_labels":1,"lost":99999999999999}` + "\n", lost: true},
		{name: "a broken line", text: head + "{\n" + line("a", ""), lost: true},
		{name: "an unknown member", text: head + line("a", `,"more":1`), lost: true},
		{name: "a short digest", text: head + `{"caller":"ab"}` + "\n", lost: true},
		{name: "an empty label", text: head + line("a", `,"labels":{"":1}`), lost: true},
		{name: "two values on a line", text: head + strings.TrimSpace(line("a", "")) + line("b", ""), lost: true},
		{name: "a line without end", text: head + strings.Repeat("x", 200_000) + "\n" + line("a", ""), lost: true},
		{name: "of another kind", text: "listeners:\n", fault: "no file of labels"},
		{name: "cut head", text: `{"mcpgw_labels":1}`, fault: "no file of labels"},
		{name: "of the future", text: `{"mcpgw_labels":2}` + "\n", fault: "version 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "labels")
			if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := OpenLabels(LabelOptions{File: file})
			if tc.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fault) {
					t.Fatalf("got %v", err)
				}
				if b, _ := os.ReadFile(file); string(b) != tc.text {
					t.Error("it was changed")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, lost := l.Get("anybody"); lost != tc.lost {
				t.Errorf("lost %v", lost)
			}
			_ = l.Close()
			if l, err = OpenLabels(LabelOptions{File: file}); err != nil {
				t.Fatal(err)
			}
			if _, lost := l.Get("anybody"); lost != tc.lost {
				t.Errorf("lost after another start: %v", lost)
			}
			_ = l.Close()
		})
	}
}

// TestLabelThatCannotBeKept: the directory is gone, so nothing can be written anew, and the open file is closed under the store.
func TestLabelThatCannotBeKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := openLabels(t, LabelOptions{File: filepath.Join(dir, "labels")})
	_ = l.file.Close()
	for range 2 { // the first time as a line, then as a whole
		if _, err := l.Add("alice", []string{"x"}); err == nil {
			t.Error("no error")
		}
		has(t, l, "alice", "x")
		_ = os.RemoveAll(dir)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mark(t, l, "alice", "x") // it heals
	if b, err := os.ReadFile(l.o.File); err != nil || !strings.Contains(string(b), `"x"`) {
		t.Errorf("%v: %s", err, b)
	}
}

func TestSessionLabels(t *testing.T) {
	s := &Session{Labels: []string{"b"}}
	n, grew, err := s.Labelled([]string{"c", "a", "b"})
	if err != nil || !grew || !slices.Equal(n.Labels, []string{"a", "b", "c"}) || !slices.Equal(s.Labels, []string{"b"}) || n.Size() <= s.Size() {
		t.Errorf("%v, %v, %q", err, grew, n.Labels)
	}
	if same, grew, err := n.Labelled([]string{"a"}); same != n || grew || err != nil {
		t.Error("a label it has changes it")
	}
	for i := range MaxLabels - 3 {
		if n, _, err = n.Labelled([]string{fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := n.Labelled([]string{"one more"}); !errors.Is(err, ErrTooManyLabels) {
		t.Errorf("one more: %v", err)
	}
}

// TestPropertyLabelsAreNeverLostSilently: over marks, time, forgetting, restarts, kills and damage, a label shows until its expiry, or its
// caller counts as lost; and nobody has a label that it was never given.
func TestPropertyLabelsAreNeverLostSilently(t *testing.T) {
	memory := "" // a file system in memory, where there is one: what takes time here is fsync
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		memory = "/dev/shm"
	}
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(memory, "labels")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		c := newClock()
		const expiry = time.Hour
		o := LabelOptions{Expiry: expiry, Callers: rapid.IntRange(1, 4).Draw(t, "callers"), Now: c.Now}
		files := 0
		next := func() string { files++; return filepath.Join(dir, fmt.Sprint(files)) }
		if rapid.Bool().Draw(t, "with a file") {
			o.File = next()
		}
		l, err := OpenLabels(o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		type pair struct{ who, label string }
		given := map[pair]time.Time{}
		certain := o.File != "" // nothing has happened that may lose anything
		seen := map[string]bool{}
		reopen := func() {
			if l, err = OpenLabels(o); err != nil {
				t.Fatal(err)
			}
		}
		names := []string{"a", "b", "c", "d", "e", "f"}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				who, label := rapid.SampledFrom(names).Draw(t, "who"), rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "label")
				grew := mark(t, l, who, label)
				if at, is := given[pair{who, label}]; certain && is && grew && c.Now().Before(at.Add(expiry)) {
					t.Fatalf("%s was %s, and it is told as new", who, label)
				}
				given[pair{who, label}] = c.Now()
				seen[who] = true
				certain = certain && len(seen) <= o.Callers
			},
			"time": func(t *rapid.T) { c.advance(time.Duration(rapid.IntRange(1, 90).Draw(t, "minutes")) * time.Minute) },
			"restart": func(*rapid.T) {
				_ = l.Close()
				certain = certain && o.File != ""
				reopen()
			},
			"rewrite": func(*rapid.T) { l.rewrite = 0 },
			"kill": func(t *rapid.T) { // what a kill leaves: all that was acknowledged, and perhaps the beginning of a line
				if o.File == "" {
					return // a store in memory has nothing that a kill or a disk could touch
				}
				b, err := os.ReadFile(o.File)
				if err != nil {
					t.Fatal(err)
				}
				_ = l.Close()
				o.File = next()
				cut := `{"caller":"0123456789`[:rapid.IntRange(0, 21).Draw(t, "cut")]
				if err := os.WriteFile(o.File, append(b, cut...), 0o600); err != nil {
					t.Fatal(err)
				}
				reopen()
			},
			"damage": func(t *rapid.T) {
				if o.File == "" {
					return // a store in memory has nothing that a kill or a disk could touch
				}
				_ = l.Close()
				b, err := os.ReadFile(o.File)
				if err != nil {
					t.Fatal(err)
				}
				head := strings.IndexByte(string(b), '\n') + 1
				if head == len(b) {
					reopen()
					return
				}
				at := rapid.IntRange(head, len(b)-2).Draw(t, "at")
				if b[at] == '\n' {
					at--
				}
				b[at] = 1
				if err := os.WriteFile(o.File, b, 0o600); err != nil {
					t.Fatal(err)
				}
				certain = false
				reopen()
			},
			"": func(t *rapid.T) {
				now := c.Now()
				for _, who := range names {
					got, lost := l.Get(who)
					for p, at := range given {
						if p.who == who && now.Before(at.Add(expiry)) && !lost && !slices.Contains(got, p.label) {
							t.Fatalf("%s was marked %s, which is lost silently", who, p.label)
						}
					}
					for _, label := range got {
						at, is := given[pair{who, label}]
						if !is || !now.Before(at.Add(expiry+expiry/16+time.Second)) {
							t.Fatalf("%s is marked %s, given %v", who, label, at)
						}
					}
					if certain && lost {
						t.Fatalf("%s counts as lost, and nothing was: %v", who, slices.Sorted(maps.Keys(seen)))
					}
				}
				if len(l.callers) > o.Callers {
					t.Fatalf("%d callers", len(l.callers))
				}
			},
		})
	})
}

func BenchmarkLabelsGet(b *testing.B) {
	l, err := OpenLabels(LabelOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 100_000 {
		if _, err := l.Add(fmt.Sprint(i), []string{"secret"}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = l.Get("77777")
	}
}
