package stdio

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// Bounds of what one child may put into the log, for stderr and for log notifications each.
const (
	logLine  = 4 << 10 // bytes of a line; the rest of it is cut off
	logRate  = 20      // lines a second in the long run
	logBurst = 200     // lines at once, enough for a stack trace
)

// boundedLog passes a child's words to the log, within the bounds above. Lines that exceed the rate are counted, and the count is told
// with the next line that passes. One goroutine uses it.
type boundedLog struct {
	log     *slog.Logger
	what    string // the message of each entry
	limit   *rate.Limiter
	untold  int64
	dropped *atomic.Int64
}

func newBoundedLog(log *slog.Logger, what string, dropped *atomic.Int64) *boundedLog {
	return &boundedLog{log: log, what: what, limit: rate.NewLimiter(logRate, logBurst), dropped: dropped}
}

// line logs one line; cut says that it was longer.
func (b *boundedLog) line(line []byte, cut bool) {
	if !b.limit.Allow() {
		b.untold++
		b.dropped.Add(1)
		return
	}
	if len(line) > logLine {
		line, cut = line[:logLine], true
	}
	attrs := []slog.Attr{slog.String("line", strings.ToValidUTF8(string(line), "\uFFFD"))}
	if cut {
		attrs = append(attrs, slog.Bool("cut", true))
	}
	if b.untold > 0 {
		attrs = append(attrs, slog.Int64("dropped", b.untold))
		b.untold = 0
	}
	b.log.LogAttrs(context.Background(), slog.LevelInfo, b.what, attrs...)
}

// copy logs what r yields until it ends. It never stops reading, since a child whose stderr is full would hang.
func (b *boundedLog) copy(r io.Reader) {
	br := bufio.NewReaderSize(r, logLine)
	for {
		part, err := br.ReadSlice('\n')
		for len(part) > 0 && (part[len(part)-1] == '\n' || part[len(part)-1] == '\r') {
			part = part[:len(part)-1]
		}
		if len(part) > 0 {
			b.line(part, errors.Is(err, bufio.ErrBufferFull))
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a cut line
			_, err = br.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}
