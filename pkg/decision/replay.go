package decision

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// ReplayOptions say what is asked again. Engine must be set.
type ReplayOptions struct {
	Engine policy.Engine

	// MayRead says whether a ruling of the engine can depend on what stands at a path of the question. Entries in which such a part
	// was masked or erased are not asked. Nil stands for everything.
	MayRead func(path []string) bool

	Path    string // only entries of this entry point, as mcpgw/main/ruling; empty for all
	Workers int    // 0 for one a core
}

// Replay asks an engine the questions of decision logs again, and gathers which rulings change. It is used once: Read any number of
// times, from one goroutine, then Report.
type Replay struct {
	opts    ReplayOptions
	lines   chan []line
	workers []*replayer
	done    sync.WaitGroup
	batch   []line
	size    int
	entries atomic.Uint64
	start   time.Time
}

// line is one JSON text of a log.
type line struct {
	file string
	n    int // counts from 1; in an array that stands on one line all entries have its number
	text []byte
	last bool // it has no newline, so the writer may have been cut off
}

// Bounds of what is kept while a log is read.
const (
	maxLine      = 64 << 20
	maxCauses    = 2000
	maxPlaces    = 2000 // of one cause
	maxExamples  = 3
	maxFaults    = 20
	maxRevisions = 100
	batchLines   = 256
)

// ReplayReport is what became of a log's entries under the new policy.
type ReplayReport struct {
	Revision  string            `json:"revision"`  // of the new policy
	Revisions map[string]uint64 `json:"revisions"` // those that the log was written under, with their entries
	From      time.Time         `json:"from"`      // of the first and the last entry that was compared
	To        time.Time         `json:"to"`

	Entries  uint64 `json:"entries"`  // rulings in the log
	Compared uint64 `json:"compared"` // of these, asked again
	Changed  uint64 `json:"changed"`  // another effect, or other obligations
	Reworded uint64 `json:"reworded"` // the same effect for other reasons; no change
	Failed   uint64 `json:"failed"`   // the new policy could not rule; these are changes unless it was so before

	Masked    uint64 `json:"masked"`     // not compared: a part that the new policy reads was masked, or the ruling was
	OtherPath uint64 `json:"other_path"` // not compared: of another entry point
	Foreign   uint64 `json:"foreign"`    // lines that are no entries, as those of the gateway's log
	Unusable  uint64 `json:"unusable"`   // entries that cannot be read
	Truncated uint64 `json:"truncated"`  // files that end within an entry, as while they are written

	Faults []LineFault   `json:"faults"` // the first of what cannot be read
	Causes []ReplayCause `json:"causes"` // of the changes, most frequent first
	Took   time.Duration `json:"took_ns"`
}

// LineFault is a line that cannot be read.
type LineFault struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Message string `json:"message"`
}

// ReplayCause is all changes from one ruling to another, by effect and reasons.
type ReplayCause struct {
	Before ReplayRuling  `json:"before"`
	After  ReplayRuling  `json:"after"`
	Count  uint64        `json:"count"`
	Where  []ReplayPlace `json:"where"` // most frequent first
}

// ReplayRuling is a ruling in short.
type ReplayRuling struct {
	Ruling string `json:"ruling"`  // the effect, with the kinds of its obligations, or error
	Why    string `json:"because"` // rule: message, for each reason
}

// ReplayPlace is which calls changed, by whom.
type ReplayPlace struct {
	Action   string   `json:"action"`
	Server   string   `json:"server"`
	Kind     string   `json:"kind"`
	Item     string   `json:"item"`
	Roles    string   `json:"roles"`
	Count    uint64   `json:"count"`
	Examples []string `json:"examples"` // decision ids
}

// NewReplay starts the workers. Report ends them.
func NewReplay(ctx context.Context, o ReplayOptions) *Replay {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.MayRead == nil {
		o.MayRead = func([]string) bool { return true }
	}
	r := &Replay{opts: o, lines: make(chan []line, o.Workers), start: time.Now()}
	for range o.Workers {
		w := &replayer{opts: &r.opts, results: map[string]*result{}, causes: map[cause]*effects{}}
		w.report.Revisions = map[string]uint64{}
		r.workers = append(r.workers, w)
		r.done.Go(func() {
			for batch := range r.lines {
				for i := range batch {
					w.line(ctx, &batch[i])
				}
				r.entries.Add(uint64(len(batch)))
			}
		})
	}
	return r
}

// Progress is how many lines have been worked on. It may be called from any goroutine.
func (r *Replay) Progress() uint64 { return r.entries.Load() }

// put hands a text to the workers. The text is kept.
func (r *Replay) put(l line) {
	r.batch = append(r.batch, l)
	if r.size += len(l.text); len(r.batch) >= batchLines || r.size >= 4<<20 {
		r.flush()
	}
}

func (r *Replay) flush() {
	if len(r.batch) > 0 {
		r.lines <- r.batch
		r.batch, r.size = make([]line, 0, batchLines), 0
	}
}

// Report waits for the workers and adds up.
func (r *Replay) Report() *ReplayReport {
	r.flush()
	close(r.lines)
	r.done.Wait()
	all := r.workers[0]
	for _, w := range r.workers[1:] {
		all.merge(w)
	}
	out := &all.report
	out.Revision = r.opts.Engine.Revision()
	out.Took = time.Since(r.start)
	out.Causes = []ReplayCause{}
	for c, e := range all.causes {
		rc := ReplayCause{Before: c.before, After: c.after}
		for p, n := range e.where {
			n.Action, n.Server, n.Kind, n.Item, n.Roles = p.Action, p.Server, p.Kind, p.Item, p.Roles
			rc.Count += n.Count
			rc.Where = append(rc.Where, n.ReplayPlace)
		}
		slices.SortFunc(rc.Where, func(a, b ReplayPlace) int {
			return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Server, b.Server), cmp.Compare(a.Item, b.Item), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Roles, b.Roles))
		})
		out.Causes = append(out.Causes, rc)
	}
	slices.SortFunc(out.Causes, func(a, b ReplayCause) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(fmt.Sprint(a.Before, a.After), fmt.Sprint(b.Before, b.After)))
	})
	if out.Faults == nil {
		out.Faults = []LineFault{}
	}
	slices.SortFunc(out.Faults, func(a, b LineFault) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return out
}

// replayer is one worker: what it finds is its own until the end.
type replayer struct {
	opts    *ReplayOptions
	parser  policy.Parser
	results map[string]*result // by their text
	report  ReplayReport
	causes  map[cause]*effects
}

type cause struct{ before, after ReplayRuling }

type effects struct{ where map[replayKey]*tallied }

type replayKey struct{ Action, Server, Kind, Item, Roles string }

type tallied struct{ ReplayPlace }

var errNoEntry = errors.New("no entry")

func (w *replayer) line(ctx context.Context, l *line) {
	text := bytes.TrimSpace(l.text)
	switch {
	case ctx.Err() != nil || len(text) == 0:
		return
	case text[0] == '[':
		var list []json.RawMessage
		if err := json.Unmarshal(text, &list); err != nil {
			w.fault(l, err)
			return
		}
		for _, one := range list {
			w.entry(ctx, l, one)
		}
		return
	case text[0] != '{':
		w.report.Foreign++ // lines of a log in text form
		return
	}
	w.entry(ctx, l, text)
}

func (w *replayer) entry(ctx context.Context, l *line, text []byte) {
	switch err := w.replay(ctx, text); {
	case errors.Is(err, errNoEntry):
		w.report.Foreign++
	case err != nil:
		w.fault(l, err)
	}
}

func (w *replayer) fault(l *line, err error) {
	if l.last {
		w.report.Truncated++
		return
	}
	w.report.Unusable++
	if len(w.report.Faults) < maxFaults {
		w.report.Faults = append(w.report.Faults, LineFault{l.file, l.n, clip(err.Error())})
	}
}

// replay asks one entry's question again.
func (w *replayer) replay(ctx context.Context, text []byte) error {
	o, err := jsonrpc.Parse(text, jsonrpc.Limits{Depth: 260})
	if err != nil {
		return err
	}
	input, given := o.Get("input"), o.Get("result")
	taken := [2]jsonrpc.Value{o.Get("erased"), o.Get("masked")}
	if !o.Get("decision_id").Exists() || !input.Exists() && !given.Exists() && !taken[0].Exists() {
		return errNoEntry
	}
	w.report.Entries++
	if path, _ := o.Get("path").Str(); w.opts.Path != "" && strings.Trim(path, "/") != w.opts.Path {
		w.report.OtherPath++
		return nil
	}
	unworded := false
	for _, list := range taken {
		if !list.Exists() {
			continue
		}
		var paths []string
		if err := json.Unmarshal(list.Raw, &paths); err != nil {
			return errors.New("erased or masked is no list of paths")
		}
		for _, p := range paths {
			matters, words := w.matters(p)
			if unworded = unworded || words; matters {
				w.report.Masked++
				return nil
			}
		}
	}
	if input.Kind() != '{' || given.Kind() != '{' {
		return errors.New("an entry without input or result")
	}
	before, err := w.result(given.Raw)
	if err != nil {
		return err
	}
	q, err := w.parser.Parse(input.Raw)
	if err != nil {
		return err
	}
	ruling := ask(ctx, w.opts.Engine, q)
	if ctx.Err() != nil { // Read tells that it was cut off
		return nil //nolint:nilerr // see above
	}
	after := resultOf(&ruling)
	w.report.Compared++
	w.note(o, q)
	if after.Error != "" {
		w.report.Failed++
	}
	was, is := ReplayRuling{before.outcome(), before.because()}, ReplayRuling{after.outcome(), after.because()}
	if unworded {
		was.Why = "(masked)"
	}
	switch {
	case !before.same(&after):
		w.report.Changed++
		id, _ := o.Get("decision_id").Str()
		w.change(cause{was, is}, replayKey{q.Action, q.Item.Server, q.Item.Kind.String(), q.Item.Name, rolesName(q)}, clip(id))
	case was.Why != is.Why && !unworded:
		w.report.Reworded++
	}
	return nil
}

// matters reports whether the new ruling, or the comparison, can depend on what a mask has taken; words: only the reasons are gone.
func (w *replayer) matters(path string) (matters, words bool) {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i := range parts {
		if plain, err := url.PathUnescape(parts[i]); err == nil {
			parts[i] = plain
		}
	}
	switch parts[0] {
	case "input":
		return w.opts.MayRead(parts[1:]), false
	case "result":
		words = len(parts) > 1 && parts[1] == "reasons"
		return !words, words
	}
	return false, false
}

func (w *replayer) result(text []byte) (*result, error) {
	if r := w.results[string(text)]; r != nil {
		return r, nil
	}
	r := new(result)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, errors.New("the result is no ruling")
	}
	switch r.Effect {
	case policy.Allow, policy.Deny, policy.Ask:
	default:
		return nil, errors.New("the result has no effect")
	}
	if len(w.results) >= maxCauses {
		clear(w.results)
	}
	w.results[string(text)] = r
	return r, nil
}

// note remembers the entry's time and revision.
func (w *replayer) note(o jsonrpc.Object, q *policy.Question) {
	r := &w.report
	at := q.Context.Time
	if s, _ := o.Get("timestamp").Str(); at.IsZero() && s != "" {
		at, _ = time.Parse(time.RFC3339Nano, s) // none is no fault
	}
	r.span(at, at)
	revision, _ := o.Get("revision").Str()
	if b := o.Get("bundles"); b.Exists() && revision == "" {
		var bundles map[string]struct {
			Revision string `json:"revision"`
		}
		if json.Unmarshal(b.Raw, &bundles) == nil {
			for _, b := range bundles {
				revision = max(revision, b.Revision)
			}
		}
	}
	r.revision(clip(revision), 1)
}

func (r *ReplayReport) span(from, to time.Time) {
	if r.From.IsZero() || !from.IsZero() && from.Before(r.From) {
		r.From = from
	}
	if to.After(r.To) {
		r.To = to
	}
}

func (r *ReplayReport) revision(name string, n uint64) {
	if _, ok := r.Revisions[name]; !ok && len(r.Revisions) >= maxRevisions {
		name = other
	}
	r.Revisions[name] += n
}

func (w *replayer) change(c cause, k replayKey, examples ...string) {
	w.changes(c, k, uint64(1), examples)
}

func (w *replayer) changes(c cause, k replayKey, count uint64, examples []string) {
	e := w.causes[c]
	if e == nil {
		if len(w.causes) >= maxCauses {
			c = cause{ReplayRuling{c.before.Ruling, other}, ReplayRuling{c.after.Ruling, other}}
			e = w.causes[c]
		}
		if e == nil {
			e = &effects{map[replayKey]*tallied{}}
			w.causes[c] = e
		}
	}
	n := e.where[k]
	if n == nil {
		if len(e.where) >= maxPlaces {
			k = replayKey{other, other, other, other, other}
			n = e.where[k]
		}
		if n == nil {
			n = &tallied{}
			e.where[k] = n
		}
	}
	n.Count += count
	for _, id := range examples {
		if len(n.Examples) < maxExamples {
			n.Examples = append(n.Examples, id)
		}
	}
}

// merge adds what another worker found.
func (w *replayer) merge(o *replayer) {
	a, b := &w.report, &o.report
	for _, p := range [][2]*uint64{
		{&a.Entries, &b.Entries},
		{&a.Compared, &b.Compared},
		{&a.Changed, &b.Changed},
		{&a.Reworded, &b.Reworded},
		{&a.Failed, &b.Failed},
		{&a.Masked, &b.Masked},
		{&a.OtherPath, &b.OtherPath},
		{&a.Foreign, &b.Foreign},
		{&a.Unusable, &b.Unusable},
		{&a.Truncated, &b.Truncated},
	} {
		*p[0] += *p[1]
	}
	if !b.From.IsZero() {
		a.span(b.From, b.To)
	}
	for name, n := range b.Revisions {
		a.revision(name, n)
	}
	a.Faults = append(a.Faults, b.Faults...)
	slices.SortFunc(a.Faults, func(x, y LineFault) int { return cmp.Or(cmp.Compare(x.File, y.File), cmp.Compare(x.Line, y.Line)) })
	a.Faults = a.Faults[:min(len(a.Faults), maxFaults)]
	for c, e := range o.causes {
		for k, n := range e.where {
			w.changes(c, k, n.Count, n.Examples)
		}
	}
}
