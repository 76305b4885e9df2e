package main

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// sink counts writes.
type sink struct {
	mu     sync.Mutex
	writes int
	text   strings.Builder
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	return s.text.Write(b)
}

func (s *sink) state() (int, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes, s.text.String()
}

func TestLogGathersLinesAndHurriesWarnings(t *testing.T) {
	out := &sink{}
	log, closeLog := newLog(out, "info", "json")
	for range 100 {
		log.With("a", 1).WithGroup("g").Info("line")
	}
	log.Debug("left out")
	log.Warn("now")
	if writes, text := out.state(); writes > 3 || strings.Count(text, "\n") != 101 || !strings.Contains(text, `"msg":"now"`) || strings.Contains(text, "left out") {
		t.Errorf("%d writes, %d lines", writes, strings.Count(text, "\n"))
	}
	log.Info("later")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, text := out.state(); strings.Contains(text, "later") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a quiet log is not written")
		}
	}
	log.Info("last")
	closeLog()
	if _, text := out.state(); !strings.Contains(text, `"msg":"last"`) {
		t.Error("the end was lost")
	}
}

// TestLogComesBack: a disk that was full for a moment does not end the log.
func TestLogComesBack(t *testing.T) {
	out := &full{}
	log, closeLog := newLog(out, "info", "text")
	out.yes = true
	log.Warn("lost")
	out.yes = false
	log.Warn("written")
	closeLog()
	if _, text := out.state(); !strings.Contains(text, "written") {
		t.Errorf("the log is %q", text)
	}
}

// full is a sink that takes nothing while yes.
type full struct {
	sink
	yes bool
}

func (f *full) Write(b []byte) (int, error) {
	if f.yes {
		return 0, errors.New("no space left")
	}
	return f.sink.Write(b)
}
