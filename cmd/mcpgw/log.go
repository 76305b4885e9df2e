package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// lines gathers log lines and writes them a few at a time: a system call for each would cost a call as much as all that the walk does.
// A warning or an error is written at once, and with it all that came before.
type lines struct {
	to io.Writer

	mu sync.Mutex
	w  *bufio.Writer
}

const (
	lineBuffer = 64 << 10
	lineDelay  = 100 * time.Millisecond
)

// newLog makes the log on w. close writes what is left and must be called last.
func newLog(w io.Writer, level, format string) (log *slog.Logger, closeLog func()) {
	out := &lines{to: w, w: bufio.NewWriterSize(w, lineBuffer)}
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo // the configuration was checked: it cannot be another word
	}
	o := &slog.HandlerOptions{Level: l}
	var h slog.Handler = slog.NewTextHandler(out, o)
	if format == "json" {
		h = slog.NewJSONHandler(out, o)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(lineDelay)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				out.flush()
			case <-stop:
				out.flush()
				return
			}
		}
	}()
	return slog.New(prompt{h, out}), func() { close(stop); <-done }
}

// Write takes one whole line, as slog's handlers give it.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.w.Write(b)
	l.lost(err)
	return n, err
}

func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost(l.w.Flush())
}

// lost begins anew after an error, which a bufio.Writer would repeat for ever. A log that cannot be written has nowhere to say so.
func (l *lines) lost(err error) {
	if err != nil {
		l.w.Reset(l.to)
	}
}

// prompt is a handler that does not let warnings wait.
type prompt struct {
	slog.Handler
	out *lines
}

func (p prompt) Handle(ctx context.Context, r slog.Record) error {
	err := p.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		p.out.flush()
	}
	return err
}

func (p prompt) WithAttrs(a []slog.Attr) slog.Handler { return prompt{p.Handler.WithAttrs(a), p.out} }

func (p prompt) WithGroup(name string) slog.Handler { return prompt{p.Handler.WithGroup(name), p.out} }
