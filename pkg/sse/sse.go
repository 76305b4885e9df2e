// Package sse reads and writes server-sent events (text/event-stream, https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2) as a
// proxy needs them: an event comes out as soon as its blank line is in, wherever the transport cut the bytes, and what a browser would hide (comments,
// events without data) is shown.
package sse

import (
	"bytes"
	"errors"
	"io"
	"slices"
)

// ErrTooLarge is returned by [Reader.Next] for an event or a comment with more bytes than the reader's bound.
var ErrTooLarge = errors.New("sse: event larger than the bound")

// An Event is one block of fields, or one comment line.
type Event struct {
	ID      string // the id field of this block, empty if there is none or an empty one; earlier ids are not carried over
	Name    string // the event field; empty means "message"
	Data    []byte // data lines joined by \n; nil without a data field, empty with an empty one. The text, if Comment
	Retry   string // the retry field: decimal digits, milliseconds
	Comment bool   // a comment line; only Data is set
}

// A Reader reads events from a stream. It must not be used by two goroutines at once.
type Reader struct {
	src   io.Reader
	max   int
	buf   []byte // bytes read
	from  int    // buf[from:] is unread by us
	err   error  // what the stream, or this reader, ended with
	line  []byte // the beginning of a line that buf did not hold to its end
	start bool   // no line is complete yet: a byte order mark may come
	cr    bool   // the last line ended in \r: a \n that follows belongs to it
	event Event  // fields of the block so far
	some  bool   // the block has a field
	size  int    // bytes of the block's complete lines
}

// NewReader returns a reader that refuses events, and comments, of more than maxEvent bytes: their lines, field names and line ends included. It holds at
// most about three times as many.
func NewReader(r io.Reader, maxEvent int) *Reader {
	return &Reader{src: r, max: maxEvent, start: true}
}

const (
	chunk    = 4 << 10  // bytes asked of the stream at once
	keptLine = 64 << 10 // bytes of the line buffer that outlive an event
)

// Next returns the next event or comment. It asks the stream for more only when what has arrived completes none. A comment inside an event comes before
// that event. The event is the caller's to keep. Blank lines without fields are skipped, unknown fields, ids with a NUL and retry values that are no
// number ignored; bytes that are no UTF-8 are passed on as they are.
//
// At the end of the stream it returns io.EOF, and an event whose blank line is missing is dropped, as the specification says. Every error is final.
func (r *Reader) Next() (Event, error) {
	for {
		for r.from < len(r.buf) {
			if e, ok, err := r.take(); err != nil {
				r.err, r.from = err, len(r.buf)
				return Event{}, err
			} else if ok {
				return e, nil
			}
		}
		if r.err != nil {
			return Event{}, r.err
		}
		r.fill()
	}
}

// fill reads at least one byte, or sets err.
func (r *Reader) fill() {
	if r.buf == nil {
		r.buf = make([]byte, 0, chunk)
	}
	r.from, r.buf = 0, r.buf[:0]
	for range 100 {
		n, err := r.src.Read(r.buf[:cap(r.buf)])
		r.buf, r.err = r.buf[:n], err
		if n > 0 || err != nil {
			return
		}
	}
	r.err = io.ErrNoProgress
}

// take consumes the unread bytes up to the end of one line. ok says that this line completed e.
func (r *Reader) take() (e Event, ok bool, err error) {
	b := r.buf[r.from:]
	if r.cr {
		r.cr = false
		if b[0] == '\n' {
			r.from++
			return e, false, nil
		}
	}
	n := lineEnd(b)
	if n < 0 {
		r.from = len(r.buf)
		if r.size+len(r.line)+len(b) > r.max {
			return e, false, ErrTooLarge
		}
		if n := len(r.line) + len(b); n > cap(r.line) {
			r.line = slices.Grow(r.line, n) // doubled: append alone copies a long line five times over
		}
		r.line = append(r.line, b...)
		return e, false, nil
	}
	r.from += n + 1
	r.cr = b[n] == '\r'
	line := b[:n]
	if len(r.line) > 0 {
		r.line = append(r.line, line...)
		line = r.line
		if r.line = r.line[:0]; cap(r.line) > keptLine {
			r.line = nil // a stream lives long and its large events are rare
		}
	}
	if r.start {
		r.start = false
		line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
	}
	if len(line) == 0 {
		e, ok = r.event, r.some
		r.event, r.some, r.size = Event{}, false, 0
		return e, ok, nil
	}
	if r.size+len(line)+1 > r.max {
		return e, false, ErrTooLarge
	}
	if line[0] == ':' {
		return Event{Comment: true, Data: append([]byte{}, bytes.TrimPrefix(line[1:], []byte(" "))...)}, true, nil
	}
	r.size += len(line) + 1
	r.field(line)
	return e, false, nil
}

// lineEnd returns the index of the first \n or \r, or -1.
func lineEnd(b []byte) int {
	n := bytes.IndexByte(b, '\n')
	if n >= 0 {
		b = b[:n]
	}
	if cr := bytes.IndexByte(b, '\r'); cr >= 0 {
		return cr
	}
	return n
}

// field adds one line to the block.
func (r *Reader) field(line []byte) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	e := &r.event
	switch string(name) {
	case "data":
		if e.Data == nil {
			e.Data = make([]byte, 0, len(value))
		} else {
			e.Data = append(e.Data, '\n')
		}
		e.Data = append(e.Data, value...)
	case "event":
		e.Name = string(value)
	case "id":
		if bytes.IndexByte(value, 0) >= 0 {
			return
		}
		e.ID = string(value)
	case "retry":
		if !digits(string(value)) {
			return
		}
		e.Retry = string(value)
	default:
		return
	}
	r.some = true
}

func digits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}
