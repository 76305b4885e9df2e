package envoyproc

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// logFormat makes a line "level<TAB>component<TAB>message".
const logFormat = "%l\t%n\t%v"

const (
	maxLine   = 4 << 10 // bytes of a line that are kept
	perSecond = 50      // lines that pass in one second; the rest is counted
	keepLines = 10      // warnings and errors kept for the error of a failed start
)

// logWriter passes Envoy's log on, line by line, never more than a bound. It is written to by one goroutine
// at a time, as os/exec does, and read by others.
type logWriter struct {
	log *slog.Logger

	mu      sync.Mutex
	line    []byte
	second  time.Time
	passed  int
	dropped int
	last    []string
}

func newLogWriter(log *slog.Logger) *logWriter {
	return &logWriter{log: log}
}

// Write never fails: Envoy must not be stopped by its own log.
func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(b)
	for len(b) > 0 {
		part, rest, whole := bytes.Cut(b, []byte{'\n'})
		w.line = append(w.line, part[:min(len(part), maxLine-len(w.line))]...)
		if whole {
			w.emit()
		}
		b = rest
	}
	return n, nil
}

// flush passes on a last line that had no end.
func (w *logWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.line) > 0 {
		w.emit()
	}
}

func (w *logWriter) emit() {
	line := string(w.line)
	w.line = w.line[:0]
	level, name, text := slog.LevelInfo, "", line
	if f := strings.SplitN(line, "\t", 3); len(f) == 3 {
		name, text = f[1], f[2]
		switch f[0] {
		case "trace", "debug":
			level = slog.LevelDebug
		case "warning":
			level = slog.LevelWarn
		case "error", "critical":
			level = slog.LevelError
		}
	}
	text = strings.Join(strings.Fields(text), " ") // protobuf's own texts vary their spaces on purpose
	if level >= slog.LevelWarn || name == "" {
		if len(w.last) == keepLines {
			w.last = append(w.last[:0], w.last[1:]...)
		}
		w.last = append(w.last, text)
	}
	if now := time.Now(); now.Sub(w.second) >= time.Second {
		if w.dropped > 0 {
			w.log.Warn("lines of the log were dropped", "lines", w.dropped)
		}
		w.second, w.passed, w.dropped = now, 0, 0
	}
	if w.passed++; w.passed > perSecond {
		w.dropped++
		return
	}
	w.log.Log(context.Background(), level, text, "logger", name)
}

// lastWords are the last warnings and errors, as the tail of an error message.
func (w *logWriter) lastWords() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.last) == 0 {
		return ""
	}
	return ": " + strings.Join(w.last, "; ")
}
