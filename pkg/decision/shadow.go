package decision

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpgw/mcpgw/pkg/policy"
)

// ShadowOptions say how much of a comparison is kept.
type ShadowOptions struct {
	Samples int // disagreements that are kept with their questions
	Log     *slog.Logger

	// Disagreed, where set, hears of each disagreement. It must not wait.
	Disagreed func(d Disagreement)

	Queue int // questions that may wait to be compared; 0 is 1024
}

// Shadow asks a second policy what the first was asked, in the background, and keeps where the two differ. Nothing that it does, not even
// a panic of the second policy, reaches the first. All methods are safe for concurrent use.
type Shadow struct {
	opts  ShadowOptions
	queue chan waiting
	bytes atomic.Int64 // of the queue

	skipped, compared, disagreed, failed atomic.Uint64

	mu      sync.Mutex // guards all below
	engine  policy.Engine
	fault   string
	live    string // revision that the table is about
	since   time.Time
	samples int
	count   ShadowCounts // since then
	table   map[place]*row
	kept    int    // samples in the table
	before  uint64 // skipped before since
}

// waiting is a ruling to compare.
type waiting struct {
	entry Entry
	size  int64
}

// Bounds of what is kept.
const (
	maxRows        = 1000
	maxRowSamples  = 5
	maxRowCallers  = 20
	maxSampleBytes = 16 << 10
	maxCompare     = 16 << 20 // bytes of questions that wait
	other          = "_other"
)

// place is what disagreements are counted by.
type place struct{ Action, Server, Kind, Item, Live, Shadow string }

type row struct {
	count   uint64
	who     map[string]uint64 // by "type id", and by roles
	roles   map[string]uint64
	last    time.Time
	samples []Sample
}

// Disagreement is one kind of it: live and shadow are effects, each with the kinds of its obligations (allow+redact), or error.
type Disagreement struct {
	Action string `json:"action"`
	Server string `json:"server"`
	Kind   string `json:"kind"`
	Item   string `json:"item"`
	Live   string `json:"live"`
	Shadow string `json:"shadow"`
}

// Sample is one disagreement with its question, in which what looks like a credential is hidden.
type Sample struct {
	DecisionID string          `json:"decision_id"`
	Time       time.Time       `json:"time"`
	Question   json.RawMessage `json:"question"`
	Live       json.RawMessage `json:"live"`   // the ruling as the decision log has it
	Shadow     json.RawMessage `json:"shadow"` // the same of the shadow
}

// ShadowCounts count questions.
type ShadowCounts struct {
	Compared  uint64 `json:"compared"`
	Disagreed uint64 `json:"disagreed"`
	Failed    uint64 `json:"failed"`  // the shadow could not rule
	Skipped   uint64 `json:"skipped"` // not compared: too many waited
}

// ShadowReport is what a comparison has found since the policies it is about were loaded.
type ShadowReport struct {
	Live   string    `json:"live"`             // revisions
	Shadow string    `json:"shadow,omitempty"` // none: nothing is compared
	Fault  string    `json:"fault,omitempty"`  // why the shadow that is configured is not the one that is compared
	Since  time.Time `json:"since"`
	ShadowCounts
	Rows []ShadowRow `json:"rows"` // most frequent first
}

// ShadowRow is one kind of disagreement.
type ShadowRow struct {
	Disagreement
	Count   uint64    `json:"count"`
	Callers []Caller  `json:"callers"` // most frequent first; the last may stand for all others
	Roles   []Caller  `json:"roles"`
	Last    time.Time `json:"last"`
	Samples []Sample  `json:"samples"`
}

// Caller is who asked, and how often.
type Caller struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// NewShadow makes one that compares nothing yet.
func NewShadow(o ShadowOptions) *Shadow {
	if o.Queue == 0 {
		o.Queue = 1024
	}
	s := &Shadow{opts: o, queue: make(chan waiting, o.Queue), samples: o.Samples}
	s.reset("")
	return s
}

// Set exchanges the second policy; nil ends comparing. A fault says why the one that is configured is not compared. What was counted is
// forgotten if the policy is another one.
func (s *Shadow) Set(e policy.Engine, fault string, samples int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := e != nil && s.engine != nil && e.Revision() == s.engine.Revision() && samples == s.samples
	s.engine, s.fault, s.samples = e, fault, samples
	if !same {
		s.reset(s.live)
	}
}

// Reset forgets what was counted.
func (s *Shadow) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reset(s.live)
}

func (s *Shadow) reset(live string) {
	s.live, s.since, s.count, s.table, s.kept, s.before = live, time.Now(), ShadowCounts{}, map[place]*row{}, 0, s.skipped.Load()
}

// Put hands over a ruling to compare. It never waits: what finds the queue full is skipped, and counted.
func (s *Shadow) Put(e Entry) {
	size := int64(sizeOf(e.Question, &e.Ruling))
	if s.bytes.Add(size) <= maxCompare {
		select {
		case s.queue <- waiting{e, size}:
			return
		default:
		}
	}
	s.bytes.Add(-size)
	s.skipped.Add(1)
}

// Counts are those since the start, for metrics; a reset does not change them.
func (s *Shadow) Counts() ShadowCounts {
	return ShadowCounts{Compared: s.compared.Load(), Disagreed: s.disagreed.Load(), Failed: s.failed.Load(), Skipped: s.skipped.Load()}
}

// Run compares until ctx ends.
func (s *Shadow) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case w := <-s.queue:
			s.bytes.Add(-w.size)
			s.compare(ctx, &w.entry)
		}
	}
}

func (s *Shadow) compare(ctx context.Context, e *Entry) {
	s.mu.Lock()
	engine := s.engine
	s.mu.Unlock()
	if engine == nil {
		return
	}
	ruling := ask(ctx, engine, e.Question)
	if ctx.Err() != nil {
		return // it is our end, not the shadow's fault
	}
	defer s.compared.Add(1) // once all of it has been counted
	live, shadow := resultOf(&e.Ruling), resultOf(&ruling)
	if ruling.Err != nil {
		s.failed.Add(1)
	}
	differ := !live.same(&shadow)
	q := e.Question
	p := place{q.Action, q.Item.Server, q.Item.Kind.String(), q.Item.Name, live.outcome(), shadow.outcome()}
	if differ {
		s.disagreed.Add(1)
		if s.opts.Disagreed != nil {
			s.opts.Disagreed(Disagreement(p))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine != engine {
		return // it was exchanged meanwhile
	}
	if s.live != e.Ruling.Revision { // what was found of another policy is of no use
		s.reset(e.Ruling.Revision)
	}
	s.count.Compared++
	if ruling.Err != nil {
		if s.count.Failed++; s.count.Failed == 1 {
			s.opts.Log.Warn("the shadow policy could not rule", "decision_id", q.Context.RequestID, "error", ruling.Err)
		}
	}
	if differ {
		s.count.Disagreed++
		s.keep(p, e, &live, &shadow)
	}
}

// ask contains whatever an engine does.
func ask(ctx context.Context, e policy.Engine, q *policy.Question) (r policy.Ruling) {
	defer func() {
		if p := recover(); p != nil {
			r = policy.Ruling{Effect: policy.Deny, Revision: e.Revision(), Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	return e.Decide(ctx, q)
}

// keep counts a disagreement. s.mu is held.
func (s *Shadow) keep(p place, e *Entry, live, shadow *result) {
	r := s.table[p]
	if r == nil {
		if len(s.table) >= maxRows {
			p = place{Action: other, Server: other, Kind: other, Item: other, Live: p.Live, Shadow: p.Shadow}
			r = s.table[p]
		}
		if r == nil {
			r = &row{who: map[string]uint64{}, roles: map[string]uint64{}}
			s.table[p] = r
		}
	}
	q := e.Question
	r.count++
	r.last = q.Context.Time
	tally(r.who, callerName(q))
	tally(r.roles, rolesName(q))
	if s.samples == 0 {
		return
	}
	switch {
	case len(r.samples) >= maxRowSamples || s.kept >= s.samples && len(r.samples) > 0:
		r.samples = slices.Delete(r.samples, 0, 1)
	case s.kept >= s.samples: // a kind without an example takes the place of one of the kind that has most
		most := r
		for _, o := range s.table {
			if len(o.samples) > len(most.samples) {
				most = o
			}
		}
		if len(most.samples) < 2 {
			return
		}
		most.samples = slices.Delete(most.samples, 0, 1)
	default:
		s.kept++
	}
	text, err := questionText(q)
	if err != nil {
		text = []byte(`{}`)
	}
	sample := Sample{DecisionID: q.Context.RequestID, Time: q.Context.Time, Question: hideSecrets(text, maxSampleBytes)}
	sample.Live, sample.Shadow = live.shown(), shadow.shown()
	if len(sample.Question) > maxSampleBytes {
		sample.Question = []byte(`"[left out: too long]"`)
	}
	r.samples = append(r.samples, sample)
}

// shown is a ruling for eyes: values that a rewrite has made of arguments are hidden as those are.
func (r *result) shown() json.RawMessage {
	shown := *r
	shown.Rewrite = slices.Clone(r.Rewrite)
	for i, c := range shown.Rewrite {
		if slices.ContainsFunc(strings.Split(c.Path, "/"), secretName) && c.Value != nil {
			shown.Rewrite[i].Value = json.RawMessage(hidden)
		}
	}
	b, err := json.Marshal(shown)
	if err != nil {
		return json.RawMessage(`{}`)
	}
	if b = hideSecrets(b, len(b)); len(b) > maxSampleBytes {
		return json.RawMessage(`"[left out: too long]"`)
	}
	return b
}

// tally counts under a name, or with all others where there are too many.
func tally(m map[string]uint64, name string) {
	if _, ok := m[name]; !ok && len(m) >= maxRowCallers {
		name = other
	}
	m[name]++
}

func callerName(q *policy.Question) string {
	p := q.Subject
	if p.ID == "" {
		return cmp.Or(p.Type, "anonymous")
	}
	return clip(p.Type + " " + p.ID)
}

// rolesName is what a caller may be called by its roles.
func rolesName(q *policy.Question) string {
	if len(q.Subject.Roles) == 0 {
		return "(no role)"
	}
	return clip(strings.Join(q.Subject.Roles, " "))
}

// clip bounds what a credential calls its owner.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func sorted(m map[string]uint64) []Caller {
	out := make([]Caller, 0, len(m))
	for name, n := range m {
		out = append(out, Caller{name, n})
	}
	slices.SortFunc(out, func(a, b Caller) int {
		if (a.Name == other) != (b.Name == other) { // the rest stands last
			return map[bool]int{true: 1, false: -1}[a.Name == other]
		}
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Report is what was found; it shares nothing with the Shadow.
func (s *Shadow) Report() *ShadowReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &ShadowReport{Live: s.live, Fault: s.fault, Since: s.since, ShadowCounts: s.count, Rows: []ShadowRow{}}
	r.Skipped = s.skipped.Load() - s.before
	if s.engine != nil {
		r.Shadow = s.engine.Revision()
	}
	for p, row := range s.table {
		samples := slices.Clone(row.samples)
		slices.Reverse(samples) // newest first
		if samples == nil {
			samples = []Sample{}
		}
		r.Rows = append(r.Rows, ShadowRow{Disagreement: Disagreement(p), Count: row.count, Callers: sorted(row.who), Roles: sorted(row.roles), Last: row.last, Samples: samples})
	}
	slices.SortFunc(r.Rows, func(a, b ShadowRow) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Server, b.Server), cmp.Compare(a.Item, b.Item), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Live, b.Live), cmp.Compare(a.Shadow, b.Shadow))
	})
	return r
}

// Status is the revision that is compared, and the fault, without the rest of a report.
func (s *Shadow) Status() (revision, fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine != nil {
		revision = s.engine.Revision()
	}
	return revision, s.fault
}
