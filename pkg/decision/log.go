package decision

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins/logs"

	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Entry is a question and the ruling on it. The question is a clone, and nobody changes either.
type Entry struct {
	Question *policy.Question
	Ruling   policy.Ruling
}

// LogOptions say where entries go. At least one of Console, File and URL is set.
type LogOptions struct {
	Console io.Writer // gets one JSON line an entry; nil for none

	File      string // appended to, mode 0600; empty for none
	FileBytes int64  // the size at which it is renamed; 0 is 100 MiB
	Files     int    // how many renamed ones are kept

	URL   string                          // entries are sent to /logs below it; empty for none
	Token func() (identity.Secret, error) // a bearer token for it, asked before each request; nil for none
	Roots *x509.CertPool                  // its authorities; nil for the system's

	Log  *slog.Logger
	Lost *atomic.Uint64 // counts entries that some output did not get, for more than this log; nil for a count of its own

	Queue int           // entries that may wait to be written; 0 is 8192
	Flush time.Duration // how long the end of Run waits for what is left; 0 is 5 s
}

// Log writes entries in the background. All methods are safe for concurrent use.
type Log struct {
	opts    LogOptions
	queue   chan queued
	bytes   atomic.Int64 // of questions in the queue
	console io.Writer
	file    *file
	upload  *uploader
	losses
}

type queued struct {
	entry Entry
	rules *Rules
	size  int64
}

// maxQueued bounds what waits to be written, in bytes; what one upload target has not taken yet is bounded in upload.go.
const maxQueued = 64 << 20

// NewLog opens the outputs. The error says what cannot be opened. Whoever does not run it closes it.
func NewLog(o LogOptions) (*Log, error) {
	if o.Queue == 0 {
		o.Queue = 8192
	}
	if o.Flush == 0 {
		o.Flush = 5 * time.Second
	}
	if o.FileBytes == 0 {
		o.FileBytes = 100 << 20
	}
	if o.Lost == nil {
		o.Lost = new(atomic.Uint64)
	}
	l := &Log{opts: o, queue: make(chan queued, o.Queue), console: o.Console, losses: losses{n: o.Lost, log: o.Log}}
	if o.File != "" {
		var err error
		if l.file, err = openFile(o.File, o.FileBytes, o.Files); err != nil {
			return nil, fmt.Errorf("decision log: %w", err)
		}
	}
	if o.URL != "" {
		l.upload = newUploader(&o, &l.losses)
	}
	return l, nil
}

// Close lets go of a log that is not run.
func (l *Log) Close() {
	if l.file != nil {
		l.file.close()
	}
}

// Put hands over an entry, to be written under rules. It never waits: what finds the queue full is lost, and counted.
func (l *Log) Put(e Entry, rules *Rules) {
	size := int64(sizeOf(e.Question, &e.Ruling))
	if l.bytes.Add(size) > maxQueued {
		l.bytes.Add(-size)
		l.lose(1, "too many bytes wait to be written")
		return
	}
	select {
	case l.queue <- queued{e, rules, size}:
	default:
		l.bytes.Add(-size)
		l.lose(1, "too many entries wait to be written")
	}
}

// Run writes until ctx ends, then what is left, for at most Flush. It is called once.
func (l *Log) Run(ctx context.Context) error {
	// Outputs may hang; whoever runs us does not.
	last, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.work(ctx, last)
	}()
	<-ctx.Done()
	select {
	case <-done:
		return nil
	case <-time.After(l.opts.Flush):
	}
	giveUp()
	select { // an uploader ends at once and counts what it could not send
	case <-done:
	case <-time.After(l.opts.Flush / 10):
	}
	if n := len(l.queue); n > 0 {
		l.n.Add(uint64(n))
		l.opts.Log.Warn("decision log entries were not written before the end", "entries", n)
	}
	return nil
}

func (l *Log) work(ctx, last context.Context) {
	var uploads sync.WaitGroup
	stop := make(chan struct{})
	if l.upload != nil {
		uploads.Go(func() { l.upload.run(last, stop) })
	}
	for ctx.Err() == nil {
		select {
		case q := <-l.queue:
			l.take(q)
		case <-ctx.Done():
		}
	}
	for last.Err() == nil {
		select {
		case q := <-l.queue:
			l.take(q)
			continue
		default:
		}
		break
	}
	close(stop)
	uploads.Wait()
	l.Close()
}

func (l *Log) take(q queued) {
	l.bytes.Add(-q.size)
	line, err := q.rules.line(&q.entry)
	switch {
	case err != nil:
		l.lose(1, err.Error())
	case line != nil:
		l.write(line)
	}
}

// write gives a line, which ends in a newline, to every output; it counts as lost where one did not take it.
func (l *Log) write(line []byte) {
	var errs []error
	if l.console != nil {
		// The members before the entry's are those with which OPA marks its own.
		b := append([]byte(`{"level":"info","msg":"Decision Log","type":"`+logs.DecisionLogType+`",`), line[1:]...)
		if _, err := l.console.Write(b); err != nil {
			errs = append(errs, fmt.Errorf("console: %w", err))
		}
	}
	if l.file != nil {
		errs = append(errs, l.file.write(line))
	}
	if l.upload != nil {
		errs = append(errs, l.upload.put(line))
	}
	if err := errors.Join(errs...); err != nil {
		l.lose(1, err.Error())
	}
}

// losses counts entries that some output did not get, and says so once a minute.
type losses struct {
	n    *atomic.Uint64
	said atomic.Int64 // when, in Unix seconds
	log  *slog.Logger
}

// Lost is how many entries were lost for some output: no room, no output, or a fault in mask or drop.
func (l *losses) Lost() uint64 { return l.n.Load() }

func (l *losses) lose(n int, why string) {
	total := l.n.Add(uint64(n))
	now, said := time.Now().Unix(), l.said.Load()
	if now-said >= 60 && l.said.CompareAndSwap(said, now) {
		l.log.Warn("decision log entries are lost", "reason", why, "lost", total)
	}
}

// result is a ruling as the log keeps it: the form in which the main module gives it, and what went wrong.
type result struct {
	Effect  policy.Effect   `json:"effect"`
	Reasons []policy.Reason `json:"reasons"`
	Rewrite []change        `json:"rewrite,omitempty"`
	Redact  []change        `json:"redact,omitempty"`
	Label   []string        `json:"label,omitempty"`
	Error   string          `json:"error,omitempty"` // timeout, or policy; the text may repeat arguments, so it is not kept
}

type change struct {
	Path    string          `json:"path,omitempty"`
	Pattern string          `json:"pattern,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"` // none: what stands at the path is removed
	With    *string         `json:"with,omitempty"`
}

const (
	errorTimeout = "timeout"
	errorPolicy  = "policy"
)

func resultOf(r *policy.Ruling) result {
	out := result{Effect: r.Effect, Reasons: r.Reasons}
	if out.Reasons == nil {
		out.Reasons = []policy.Reason{}
	}
	switch {
	case errors.Is(r.Err, policy.ErrTimeout):
		out.Error = errorTimeout
	case r.Err != nil:
		out.Error = errorPolicy
	}
	if o := r.Obligations; o != nil {
		out.Rewrite, out.Redact, out.Label = changes(o.Rewrite), changes(o.Redact), o.Label
	}
	return out
}

func changes(list []policy.Change) []change {
	var out []change
	for _, c := range list {
		n := change{Path: c.Path, Pattern: c.Pattern, Value: c.Value}
		if c.Pattern != "" {
			n.With = &c.With
		}
		out = append(out, n)
	}
	return out
}

// outcome is a ruling in one word: its effect, with the kinds of its obligations, or error.
func (r *result) outcome() string {
	if r.Error != "" {
		return "error"
	}
	word := string(r.Effect)
	for _, o := range []struct {
		name string
		n    int
	}{{"rewrite", len(r.Rewrite)}, {"redact", len(r.Redact)}, {"label", len(r.Label)}} {
		if o.n > 0 {
			word += "+" + o.name
		}
	}
	return word
}

// obligations tells obligations apart: equal text, equal demands.
func (r *result) obligations() string {
	if len(r.Rewrite)+len(r.Redact)+len(r.Label) == 0 {
		return ""
	}
	b, err := json.Marshal(result{Rewrite: r.Rewrite, Redact: r.Redact, Label: r.Label})
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// same reports whether two rulings do the same; the words of a refusal do not count.
func (r *result) same(o *result) bool {
	return r.outcome() == o.outcome() && (r.Error != "" || r.obligations() == o.obligations())
}

// because is the reasons as one text.
func (r *result) because() string {
	if r.Error != "" {
		return "error: " + r.Error
	}
	var b []byte
	for i, why := range r.Reasons {
		if i > 0 {
			b = append(b, "; "...)
		}
		b = append(append(append(b, why.Rule...), ": "...), why.Message...)
	}
	if len(b) == 0 && r.Effect == policy.Deny {
		return "no rule allows it"
	}
	return string(b)
}

// questionText is the whole question as JSON, checked: what was built of foreign parts could be none.
func questionText(q *policy.Question) ([]byte, error) {
	if q.Subject == nil || q.Item == nil {
		return nil, errors.New("a question needs subject and item")
	}
	b := q.AppendJSON(nil)
	if _, err := jsonrpc.Parse(b, jsonrpc.Limits{Depth: 256}); err != nil {
		return nil, fmt.Errorf("the question is no JSON: %w", err)
	}
	return b, nil
}
