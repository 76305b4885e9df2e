package main

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
)

// scope lets the helpers of the harness, which take a test, serve a program: it has what they use of one. A fatal failure
// ends the function that within runs, not the program. What it does not override panics on nil.
type scope struct {
	testing.TB

	mu       sync.Mutex // guards all below; within itself runs on one goroutine
	cleanups []func()
	failures []string
	logs     []string
}

// fatal is what Fatal panics with.
type fatal struct{}

// within runs f with a scope, then its cleanups, and returns what failed.
func within(f func(t *scope)) []string {
	t := &scope{}
	t.protect(func() { f(t) })
	t.tidy()
	return t.failures
}

// tidy runs the cleanups, the last first, those that cleanups add included.
func (t *scope) tidy() {
	for {
		t.mu.Lock()
		n := len(t.cleanups)
		if n == 0 {
			t.mu.Unlock()
			return
		}
		last := t.cleanups[n-1]
		t.cleanups = t.cleanups[:n-1]
		t.mu.Unlock()
		t.protect(last)
	}
}

// protect runs f to its end or to its first fatal failure.
func (t *scope) protect(f func()) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(fatal); !ok {
				panic(p)
			}
		}
	}()
	f()
}

func (t *scope) Helper() {}

func (t *scope) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

func (t *scope) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, fmt.Sprintf(format, args...))
}

func (t *scope) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	panic(fatal{})
}

func (t *scope) Error(args ...any) { t.Errorf("%s", fmt.Sprint(args...)) }
func (t *scope) Fatal(args ...any) { t.Fatalf("%s", fmt.Sprint(args...)) }

// Logf keeps what is said, for whoever wants to show it: a child's whole output, after a failure.
func (t *scope) Logf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.logs = append(t.logs, fmt.Sprintf(format, args...))
}

func (t *scope) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.failures) > 0
}

// failed is a copy of the failures so far.
func (t *scope) failed() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.failures)
}

// TempDir makes a folder with a short path, since sockets may lie in it, and removes it at the end.
func (t *scope) TempDir() string {
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
