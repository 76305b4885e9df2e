package sse_test

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/sse"
)

const bound = 1 << 16

// all reads a stream to its end and returns the error that ended it.
func all(r io.Reader, maxEvent int) (events []sse.Event, err error) {
	reader := sse.NewReader(r, maxEvent)
	for {
		e, err := reader.Next()
		if err != nil {
			if _, again := reader.Next(); !errors.Is(again, err) {
				return events, errors.New("the error is not final")
			}
			return events, err
		}
		events = append(events, e)
	}
}

func TestNext(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		want         []sse.Event
	}{
		{"empty", "", nil},
		{"blank lines", "\n\r\n\r\n\r\r", nil},
		{"data", "data: x\n\n", []sse.Event{{Data: []byte("x")}}},
		{"CRLF", "data: x\r\n\r\ndata: y\r\n\r\n", []sse.Event{{Data: []byte("x")}, {Data: []byte("y")}}},
		{"CR", "data: x\r\rdata: y\r\r", []sse.Event{{Data: []byte("x")}, {Data: []byte("y")}}},
		{"mixed ends", "data: x\r\ndata: y\rdata: z\n\r\n", []sse.Event{{Data: []byte("x\ny\nz")}}},
		{"byte order mark", "\xef\xbb\xbfdata: x\n\n", []sse.Event{{Data: []byte("x")}}},
		{"second byte order mark", "\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", nil},
		{"byte order mark later", "data: x\n\n\xef\xbb\xbfdata: y\n\n", []sse.Event{{Data: []byte("x")}}},
		{"byte order mark before a blank line", "\xef\xbb\xbf\ndata: y\n\n", []sse.Event{{Data: []byte("y")}}},
		{"all fields", "id: 1\nevent: e\nretry: 1000\ndata: x\n\n", []sse.Event{{ID: "1", Name: "e", Retry: "1000", Data: []byte("x")}}},
		{"one space is stripped", "data:x\ndata: x\ndata:  x\n\n", []sse.Event{{Data: []byte("x\nx\n x")}}},
		{"colons in the value", "data: a:b: c\n\n", []sse.Event{{Data: []byte("a:b: c")}}},
		{"no colon", "data\nid\n\n", []sse.Event{{Data: []byte{}}}},
		{"empty data lines", "data:\ndata:\n\n", []sse.Event{{Data: []byte("\n")}}},
		{"id alone", "id: 7\n\n", []sse.Event{{ID: "7"}}},
		{"priming event", "id: 7\ndata:\n\n", []sse.Event{{ID: "7", Data: []byte{}}}},
		{"ids are not carried over", "id: 7\n\ndata: x\n\n", []sse.Event{{ID: "7"}, {Data: []byte("x")}}},
		{"last field wins", "id: 1\nid: 2\nevent: a\nevent: b\n\n", []sse.Event{{ID: "2", Name: "b"}}},
		{"id with NUL", "id: 1\x002\ndata: x\n\n", []sse.Event{{Data: []byte("x")}}},
		{"retry is no number", "retry: 1s\nretry:\nretry: -1\ndata: x\n\n", []sse.Event{{Data: []byte("x")}}},
		{"unknown fields", "foo: 1\nDATA: x\n data: y\n\n", nil},
		{"comment", ": hello\n", []sse.Event{{Comment: true, Data: []byte("hello")}}},
		{"empty comment", ":\n\n", []sse.Event{{Comment: true, Data: []byte{}}}},
		{"comment inside an event", "data: a\n:c\ndata: b\n\n", []sse.Event{{Comment: true, Data: []byte("c")}, {Data: []byte("a\nb")}}},
		{"no blank line", "data: x\n\ndata: y\n", []sse.Event{{Data: []byte("x")}}},
		{"no line end", "data: x\n\ndata: y", []sse.Event{{Data: []byte("x")}}},
		{"comment without line end", ": x", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{
				"whole": strings.NewReader(c.stream), "bytes": iotest.OneByteReader(strings.NewReader(c.stream)),
				"end with data": iotest.DataErrReader(strings.NewReader(c.stream)), "halves": iotest.HalfReader(strings.NewReader(c.stream)),
			} {
				got, err := all(r, bound)
				if d := cmp.Diff(c.want, got); d != "" || !errors.Is(err, io.EOF) {
					t.Errorf("%s: %v, %s", name, err, d)
				}
			}
		})
	}
}

// A step reader hands out one piece a call and notes when it is asked for more.
type steps struct {
	pieces []string
	asked  int
}

func (s *steps) Read(p []byte) (int, error) {
	if s.asked == len(s.pieces) {
		return 0, io.EOF
	}
	s.asked++
	return copy(p, s.pieces[s.asked-1]), nil
}

func TestEventsComeAtOnce(t *testing.T) {
	s := &steps{pieces: []string{"data: 1\n", "\n", "data: 2\r", "\r", "\ndata: 3\r\n\r", "\n: c\n", "data: 4\n\ndata: 5\n\nda", "ta: 6\n\n"}}
	r := sse.NewReader(s, bound)
	for _, want := range []struct {
		data  string
		asked int // pieces that may have been asked for when the event comes
	}{{"1", 2}, {"2", 4}, {"3", 5}, {"c", 6}, {"4", 7}, {"5", 7}, {"6", 8}} {
		e, err := r.Next()
		if err != nil || string(e.Data) != want.data || s.asked != want.asked {
			t.Fatalf("event %q after %d pieces, %v; want %q after %d", e.Data, s.asked, err, want.data, want.asked)
		}
	}
}

func TestEventsAreTheCallers(t *testing.T) {
	r := sse.NewReader(strings.NewReader("data: first\n\n: note\ndata: other\n\n"), bound)
	first, _ := r.Next()
	note, _ := r.Next()
	if _, err := r.Next(); err != nil || string(first.Data) != "first" || string(note.Data) != "note" {
		t.Errorf("%v: %q, %q", err, first.Data, note.Data)
	}
}

func TestBound(t *testing.T) {
	const maxEvent = 64
	for _, c := range []struct {
		name, stream string
		events       int
		err          error
	}{
		{"as large as allowed", "data: " + strings.Repeat("x", 57) + "\n\n", 1, io.EOF},
		{"one byte more", "data: " + strings.Repeat("x", 58) + "\n\n", 0, sse.ErrTooLarge},
		{"never a line end", strings.Repeat("x", 1000), 0, sse.ErrTooLarge},
		{"many lines", strings.Repeat("data:\n", 11) + "\n", 0, sse.ErrTooLarge},
		{"many unknown lines", strings.Repeat("x\n", 33), 0, sse.ErrTooLarge},
		{"large comment", ":" + strings.Repeat("x", 64) + "\n", 0, sse.ErrTooLarge},
		{"many comments in an event", "data: x\n" + strings.Repeat(":c\n", 100) + "\n", 101, io.EOF},
		{"each event anew", strings.Repeat("data: "+strings.Repeat("x", 50)+"\n\n", 10), 10, io.EOF},
		{"after good ones", "data: x\n\n" + strings.Repeat("x", 65) + "\n\ndata: y\n\n", 1, sse.ErrTooLarge},
		{"blank lines are free", strings.Repeat("\n", 1000) + "data: x\n\n", 1, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{"whole": strings.NewReader(c.stream), "bytes": iotest.OneByteReader(strings.NewReader(c.stream))} {
				if events, err := all(r, maxEvent); len(events) != c.events || !errors.Is(err, c.err) {
					t.Errorf("%s: %d events, %v; want %d, %v", name, len(events), err, c.events, c.err)
				}
			}
		})
	}
	if events, err := all(strings.NewReader("data: x\n\n"), 0); len(events) != 0 || !errors.Is(err, sse.ErrTooLarge) {
		t.Errorf("without a bound: %d events, %v", len(events), err)
	}
}

func TestStreamErrors(t *testing.T) {
	broken := errors.New("broken")
	events, err := all(io.MultiReader(strings.NewReader("data: x\n\ndata: y\n"), iotest.ErrReader(broken)), bound)
	if len(events) != 1 || !errors.Is(err, broken) {
		t.Errorf("%d events, %v", len(events), err)
	}
	if _, err := all(lazy{}, bound); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that reads nothing: %v", err)
	}
}

type lazy struct{}

func (lazy) Read([]byte) (int, error) { return 0, nil }

func TestAppend(t *testing.T) {
	for _, c := range []struct {
		name string
		e    sse.Event
		want string
	}{
		{"all fields", sse.Event{ID: "1", Name: "e", Retry: "5", Data: []byte("x")}, "id: 1\nevent: e\nretry: 5\ndata: x\n\n"},
		{"lines", sse.Event{Data: []byte("a\nb\r\nc\rd\n")}, "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"},
		{"priming event", sse.Event{ID: "1", Data: []byte{}}, "id: 1\ndata: \n\n"},
		{"no data", sse.Event{ID: "1"}, "id: 1\n\n"},
		{"comment", sse.Event{Comment: true, Data: []byte("a\nb"), ID: "ignored"}, ": a\n: b\n\n"},
		{"empty comment", sse.Event{Comment: true}, ": \n\n"},
		{"injection", sse.Event{ID: "1\ndata: x", Name: "e\rdata: x", Retry: "1\n", Data: []byte("y")}, "data: y\n\n"},
		{"NUL in id", sse.Event{ID: "1\x00", Data: []byte("y")}, "data: y\n\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(sse.Append([]byte("before"), c.e)); got != "before"+c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// cut reads a stream in pieces of drawn lengths.
type cut struct {
	t    *rapid.T
	rest []byte
}

func (c *cut) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest[:rapid.IntRange(0, min(len(c.rest), len(p))).Draw(c.t, "piece")])
	c.rest = c.rest[n:]
	return n, nil
}

// oneLine draws text without line breaks and NUL.
func oneLine(t *rapid.T, label string) string {
	return strings.NewReplacer("\r", "", "\n", "", "\x00", "").Replace(rapid.StringN(0, 8, -1).Draw(t, label))
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []sse.Event
		var stream []byte
		for range rapid.IntRange(0, 6).Draw(t, "events") {
			e := sse.Event{Comment: rapid.Bool().Draw(t, "comment")}
			if e.Comment {
				e.Data = []byte(oneLine(t, "text"))
			} else {
				e.ID, e.Name, e.Retry = oneLine(t, "id"), oneLine(t, "name"), rapid.StringMatching(`([0-9]{1,6})?`).Draw(t, "retry")
				e.Data = append([]byte{}, rapid.SliceOfN(rapid.SampledFrom([]byte("ab:\n \xff")), 0, 20).Draw(t, "data")...)
			}
			want, stream = append(want, e), sse.Append(stream, e)
		}
		got, err := all(&cut{t, stream}, bound)
		if d := cmp.Diff(want, got); d != "" || !errors.Is(err, io.EOF) {
			t.Fatalf("%q: %v, %s", stream, err, d)
		}
	})
}

var lineBreak = regexp.MustCompile(`\r\n|\n|\r`)

// reference reads a whole stream as the specification words it, line by line.
func reference(stream string) (events []sse.Event) {
	lines := lineBreak.Split(strings.TrimPrefix(stream, "\xef\xbb\xbf"), -1)
	var e sse.Event
	var data []string
	some := false
	for _, line := range lines[:len(lines)-1] {
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if data != nil {
				e.Data = []byte(strings.Join(data, "\n"))
			}
			if some {
				events = append(events, e)
			}
			e, data, some = sse.Event{}, nil, false
		case field == "":
			events = append(events, sse.Event{Comment: true, Data: []byte(value)})
		case field == "data":
			data, some = append(data, value), true
		case field == "event":
			e.Name, some = value, true
		case field == "id" && !strings.Contains(value, "\x00"):
			e.ID, some = value, true
		case field == "retry" && regexp.MustCompile(`^[0-9]+$`).MatchString(value):
			e.Retry, some = value, true
		}
	}
	return events
}

func agree(t interface{ Fatalf(string, ...any) }, stream string, readers map[string]io.Reader) {
	want := reference(stream)
	for name, r := range readers {
		got, err := all(r, bound)
		if d := cmp.Diff(want, got); d != "" || !errors.Is(err, io.EOF) {
			t.Fatalf("%q, %s: %v, %s", stream, name, err, d)
		}
	}
}

func TestReaderAgreesWithReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"\n", "\n", "\r\n", "\r", "data", "data:", "data: ", "event:", "id:", "retry:", ":", " ", "x", "12", "\x00", "\xef\xbb\xbf", "\xff"}), 0, 40).Draw(t, "parts")
		stream := strings.Join(parts, "")
		agree(t, stream, map[string]io.Reader{"whole": strings.NewReader(stream), "cut": &cut{t, []byte(stream)}})
	})
}

func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		"data: x\n\n", "\xef\xbb\xbfid: 1\r\nevent: message\r\ndata: {\"jsonrpc\":\"2.0\"}\r\n\r\n", ": keep-alive\n\nretry: 100\rid:\r\r", "data\ndata: \n\ndata: cut",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		if len(stream) >= bound {
			return
		}
		agree(t, string(stream), map[string]io.Reader{"whole": bytes.NewReader(stream), "bytes": iotest.OneByteReader(bytes.NewReader(stream)), "halves": iotest.HalfReader(bytes.NewReader(stream))})
		events, _ := all(bytes.NewReader(stream), bound)
		var again []byte
		for _, e := range events {
			again = sse.Append(again, e)
		}
		// Writing may drop what has no effect (an empty id) but adds and splits nothing.
		written, err := all(bytes.NewReader(again), 2*bound)
		if kept := visible(events); !errors.Is(err, io.EOF) || cmp.Diff(kept, visible(written)) != "" {
			t.Fatalf("%q, written as %q: %v, %s", stream, again, err, cmp.Diff(kept, written))
		}
	})
}

// visible leaves out the events that have a field but no content, such as a lone "id:".
func visible(events []sse.Event) (out []sse.Event) {
	for _, e := range events {
		if e.ID != "" || e.Name != "" || e.Retry != "" || e.Data != nil {
			out = append(out, e)
		}
	}
	return out
}

func BenchmarkReader(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
	}{{"300B", 300}, {"10KB", 10 << 10}, {"1MB", 1 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			event := sse.Append(nil, sse.Event{ID: "17", Name: "message", Data: bytes.Repeat([]byte("x"), c.size)})
			b.SetBytes(int64(len(event)))
			b.ReportAllocs()
			endless := &loop{text: event}
			r := sse.NewReader(endless, 2<<20)
			for b.Loop() {
				if _, err := r.Next(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// loop is a stream that repeats.
type loop struct {
	text []byte
	at   int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p, l.text[l.at:])
	l.at = (l.at + n) % len(l.text)
	return n, nil
}

func BenchmarkAppend(b *testing.B) {
	e := sse.Event{ID: "17", Name: "message", Data: bytes.Repeat([]byte("x"), 300)}
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		dst = sse.Append(dst[:0], e)
	}
}
