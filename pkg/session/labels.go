package session

import (
	"bufio"
	"bytes"
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

// Bounds of labels.
const (
	MaxLabels = 64  // of one session or caller
	MaxLabel  = 128 // bytes of one
)

// ErrTooManyLabels says that a session or caller has MaxLabels already, or that a label is empty or has more than MaxLabel bytes.
var ErrTooManyLabels = fmt.Errorf("a caller has at most %d labels, of 1 to %d bytes", MaxLabels, MaxLabel)

// Labelled returns a copy of s that has these labels too, and whether any is new; s itself where none is. It is meant for the change
// function of Store.Update. A session never loses a label while it lasts.
func (s *Session) Labelled(labels []string) (n *Session, grew bool, err error) {
	all, err := join(s.Labels, labels)
	if err != nil || len(all) == len(s.Labels) {
		return s, false, err
	}
	c := *s
	c.Labels = all
	return &c, true, nil
}

// join is the sorted union, within the bounds.
func join(have, more []string) ([]string, error) {
	all := slices.Concat(have, more)
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) > MaxLabels || slices.ContainsFunc(more, func(s string) bool { return !legalLabel(s) }) {
		return nil, ErrTooManyLabels
	}
	return all, nil
}

func legalLabel(s string) bool { return s != "" && len(s) <= MaxLabel && utf8.ValidString(s) }

// LabelOptions say where the labels of callers live, and how long. Zero values mean the defaults named here.
type LabelOptions struct {
	File    string        // outlives the process; empty: memory alone
	Expiry  time.Duration // how long a label lasts after it was last given; 24 h
	Callers int           // how many callers are remembered; 100,000
	Now     func() time.Time
	// Warn, where set, is told what an operator should know of the file.
	Warn func(message string, err error)
}

// Labels keeps what callers without a session have been marked with. It never forgets silently: a label that was given shows until
// its expiry, or whoever had it counts as lost until then.
//
// With a file, Add returns once the label is on disk. The file is a line of JSON for each change, and is written anew when it has
// grown; it names callers by digest alone. One process has it at a time. Without a file nothing is known of the time before the
// start, so everybody counts as lost for one expiry.
//
// It is safe for concurrent use. Get never waits for the disk.
type Labels struct {
	o     LabelOptions
	slack time.Duration // a label given again within it needs no new line

	mu      sync.Mutex // guards what follows
	callers map[caller]*marked
	order   list.List // of *marked, whoever ends first in front
	sum     int       // of labels of all callers
	lost    time.Time // until then whoever is not known counts as lost

	io      sync.Mutex // guards what follows; taken before mu
	lock    *os.File
	file    *os.File
	size    int64
	rewrite int64 // the size at which the file is written anew
	broken  bool  // it is not certain what the file holds: it is written anew
}

// caller is a digest: of constant size, and no name in a file.
type caller [sha256.Size]byte

type marked struct {
	caller caller
	labels map[string]*span
	lost   time.Time // until then there may have been others, from before this entry
	last   time.Time // when the last of all this is over
	at     *list.Element
}

// span is how long a label lasts, and how long according to the file.
type span struct{ until, kept time.Time }

const (
	labelsPerCaller = 8       // on average; with Callers it bounds the memory
	minRewrite      = 1 << 20 // bytes of a file that is not worth writing anew
	lockPatience    = 5 * time.Second
)

// The lines of the file: a head, then changes. Times are milliseconds since 1970.
type (
	labelHead struct {
		Labels int   `json:"mcpgw_labels"` // the version
		Lost   int64 `json:"lost,omitempty"`
	}
	labelLine struct {
		Caller string           `json:"caller"`
		Labels map[string]int64 `json:"labels,omitempty"` // to when each lasts
		Lost   int64            `json:"lost,omitempty"`
	}
)

const labelVersion = 1

// OpenLabels makes a store, of what the file holds if there is one. A file that is not there yet is made, and nobody is marked: whoever
// removes it takes all marks away. An error means that it cannot be used, and how that is mended.
func OpenLabels(o LabelOptions) (*Labels, error) {
	if o.Expiry <= 0 {
		o.Expiry = 24 * time.Hour
	}
	if o.Callers <= 0 {
		o.Callers = 100_000
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Warn == nil {
		o.Warn = func(string, error) {}
	}
	l := &Labels{o: o, slack: o.Expiry / 16, callers: map[caller]*marked{}}
	if o.File == "" {
		l.lost = o.Now().Add(o.Expiry)
		return l, nil
	}
	err := l.open()
	if err != nil {
		_ = l.Close() // the first error says what is wrong
		return nil, err
	}
	return l, nil
}

func (l *Labels) open() error {
	var err error
	if l.lock, err = os.OpenFile(l.o.File+".lock", os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return fmt.Errorf("labels: %w", err)
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(50 * time.Millisecond) { // whoever is ending gives it free
		if err = syscall.Flock(int(l.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("labels: another process has %s; give each gateway a file of its own", l.o.File)
		}
	}
	f, err := os.Open(l.o.File)
	switch {
	case errors.Is(err, os.ErrNotExist):
		l.o.Warn("there is no file of labels: nobody is marked", nil)
	case err != nil:
		return fmt.Errorf("labels: %w", err)
	default:
		err = l.load(f)
		_ = f.Close() // only read from
		if err != nil {
			return fmt.Errorf("labels: %s: %w", l.o.File, err)
		}
	}
	return l.writeAll()
}

// load reads the file. A last line that is cut was never acknowledged; any other that cannot be read may have marked anybody.
func (l *Labels) load(f io.Reader) error {
	now := l.o.Now()
	r := bufio.NewReaderSize(f, 64<<10)
	read := func() (line []byte, whole bool, err error) {
		line, err = r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = r.ReadSlice('\n')
			}
			line = nil
		}
		if err == io.EOF {
			return line, false, nil
		}
		return line, true, err
	}
	var head labelHead
	line, whole, err := read()
	switch {
	case err != nil:
		return err
	case !whole && len(line) == 0:
		return nil // empty: made, and nothing written yet
	case !whole || strict(line, &head) != nil || head.Labels == 0:
		return errors.New("this is no file of labels; name another, or remove it: then nobody is marked")
	case head.Labels != labelVersion:
		return fmt.Errorf("it is of version %d, this mcpgw knows %d; use the mcpgw that wrote it, or remove it: then nobody is marked", head.Labels, labelVersion)
	}
	l.lost = fromMillis(head.Lost)
	damaged := 0
	for {
		if line, whole, err = read(); err != nil {
			return err
		}
		if !whole {
			break
		}
		var c labelLine
		id, ok := caller{}, line != nil && strict(line, &c) == nil && len(c.Labels) <= MaxLabels
		if ok {
			n, err := hex.Decode(id[:], []byte(c.Caller[:min(len(c.Caller), 2*len(id))]))
			ok = err == nil && n == len(id) && len(c.Caller) == 2*len(id)
		}
		for name := range c.Labels {
			ok = ok && legalLabel(name)
		}
		if !ok {
			damaged++
			continue
		}
		m := l.find(id, now)
		m.lost = later(m.lost, fromMillis(c.Lost))
		for name, until := range c.Labels {
			if s := m.labels[name]; s == nil && len(m.labels) < MaxLabels {
				m.labels[name] = &span{until: fromMillis(until)}
				l.sum++
			} else if s != nil {
				s.until = later(s.until, fromMillis(until))
			} else {
				m.lost = later(m.lost, fromMillis(until))
			}
		}
		l.touch(m)
		l.purge(now)
		l.evict()
	}
	if damaged > 0 {
		l.lost = later(l.lost, now.Add(l.o.Expiry))
		for _, m := range l.callers {
			m.lost = later(m.lost, l.lost)
			m.last = later(m.last, m.lost)
		}
		l.o.Warn("lines of the labels' file cannot be read: every caller counts as marked until it is certain again", fmt.Errorf("%d lines", damaged))
	}
	return nil
}

func strict(line []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.InputOffset() != int64(len(bytes.TrimRight(line, "\n"))) {
		return errors.New("more follows")
	}
	return nil
}

func fromMillis(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(n)
}

// millis never shortens what it writes.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Add(time.Millisecond - 1).UnixMilli()
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Get returns what a caller is marked with, in order. lost says that there may be more, which is not known.
func (l *Labels) Get(key string) (labels []string, lost bool) {
	id := caller(sha256.Sum256([]byte(key)))
	now := l.o.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.callers[id]
	if m == nil {
		return nil, now.Before(l.lost)
	}
	for name, s := range m.labels {
		if now.Before(s.until) {
			labels = append(labels, name)
		}
	}
	slices.Sort(labels)
	return labels, now.Before(m.lost)
}

// Add marks a caller and reports whether anything is new. With an error the labels count all the same as long as this process lives,
// but it is not certain that they outlive it: what they were given for must not happen.
func (l *Labels) Add(key string, labels []string) (grew bool, err error) {
	id := caller(sha256.Sum256([]byte(key)))
	now := l.o.Now()
	l.mu.Lock()
	grew, kept, err := l.give(id, labels, now)
	l.mu.Unlock()
	if err != nil || kept || l.o.File == "" {
		return grew, err
	}
	l.io.Lock()
	defer l.io.Unlock()
	return grew, l.keep(id, labels, now.Add(l.o.Expiry))
}

// give puts labels into the memory. kept says that the file knows them for long enough. The lock is held.
func (l *Labels) give(id caller, labels []string, now time.Time) (grew, kept bool, err error) {
	l.purge(now)
	var live []string
	if m := l.callers[id]; m != nil {
		for name, s := range m.labels {
			if now.Before(s.until) {
				live = append(live, name)
			}
		}
	}
	if _, err := join(live, labels); err != nil {
		return false, false, err
	}
	m := l.find(id, now)
	for name, s := range m.labels {
		if !now.Before(s.until) {
			delete(m.labels, name)
			l.sum--
		}
	}
	kept = true
	for _, name := range labels {
		s := m.labels[name]
		if s == nil {
			s = &span{}
			m.labels[name] = s
			l.sum++
			grew = true
		}
		if s.until.Before(now.Add(l.o.Expiry)) {
			s.until = now.Add(l.o.Expiry + l.slack)
		}
		kept = kept && !s.kept.Before(now.Add(l.o.Expiry))
	}
	l.touch(m)
	l.evict()
	return grew, kept, nil
}

// find finds or makes a caller's entry. What was lost before it was made stays lost.
func (l *Labels) find(id caller, now time.Time) *marked {
	m := l.callers[id]
	if m == nil {
		m = &marked{caller: id, labels: map[string]*span{}}
		if now.Before(l.lost) {
			m.lost = l.lost
		}
		m.at = l.order.PushBack(m)
		l.callers[id] = m
	}
	return m
}

// touch puts a caller in its place: the latest end last.
func (l *Labels) touch(m *marked) {
	m.last = m.lost
	for _, s := range m.labels {
		m.last = later(m.last, s.until)
	}
	l.order.MoveToBack(m.at)
}

// purge drops whom nothing is known of any more.
func (l *Labels) purge(now time.Time) {
	for at := l.order.Front(); at != nil; at = l.order.Front() {
		if m := at.Value.(*marked); now.Before(m.last) {
			return
		}
		l.drop(at.Value.(*marked))
	}
}

func (l *Labels) drop(m *marked) {
	l.order.Remove(m.at)
	l.sum -= len(m.labels)
	delete(l.callers, m.caller)
}

// evict holds the bounds. For as long as a label of whoever is dropped lasts, everybody who is not known counts as lost.
func (l *Labels) evict() {
	for len(l.callers) > l.o.Callers || l.sum > max(MaxLabels, labelsPerCaller*l.o.Callers) {
		m := l.order.Front().Value.(*marked)
		l.lost = later(l.lost, m.last)
		l.drop(m)
	}
}

// keep writes what is known of a caller and waits until it is on disk. l.io is held.
func (l *Labels) keep(id caller, labels []string, until time.Time) error {
	if l.file == nil && !l.broken {
		return errors.New("labels: the store is closed")
	}
	l.mu.Lock()
	m := l.callers[id]
	var line []byte
	var written map[string]time.Time
	done := m != nil
	if m != nil {
		for _, name := range labels {
			done = done && m.labels[name] != nil && !m.labels[name].kept.Before(until)
		}
		line, written = m.line()
	}
	l.mu.Unlock()
	switch {
	case done: // another call was quicker
		return nil
	case m == nil: // evicted meanwhile: the file must say so
		return l.writeAll()
	case l.broken || l.size+int64(len(line)) > l.rewrite:
		return l.writeAll()
	}
	if _, err := l.file.Write(line); err != nil {
		l.broken = true
		return fmt.Errorf("labels: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		l.broken = true // what a failed sync has left is not certain
		return fmt.Errorf("labels: %w", err)
	}
	l.size += int64(len(line))
	l.mu.Lock()
	m.kept(written)
	l.mu.Unlock()
	return nil
}

// line is what the file holds of a caller. Labels.mu is held.
func (m *marked) line() ([]byte, map[string]time.Time) {
	c := labelLine{Caller: hex.EncodeToString(m.caller[:]), Labels: make(map[string]int64, len(m.labels)), Lost: millis(m.lost)}
	written := make(map[string]time.Time, len(m.labels))
	for name, s := range m.labels {
		c.Labels[name], written[name] = millis(s.until), s.until
	}
	b, _ := json.Marshal(c) // texts and numbers: it cannot fail
	return append(b, '\n'), written
}

// kept notes what the file holds. Labels.mu is held.
func (m *marked) kept(written map[string]time.Time) {
	for name, until := range written {
		if s := m.labels[name]; s != nil {
			s.kept = later(s.kept, until)
		}
	}
}

// writeAll replaces the file by all that is known, in one step. l.io is held, or nobody else knows l yet.
func (l *Labels) writeAll() (err error) {
	l.mu.Lock()
	l.purge(l.o.Now())
	head, _ := json.Marshal(labelHead{labelVersion, millis(l.lost)})
	text := slices.Concat(head, []byte{'\n'})
	type written struct {
		m *marked
		w map[string]time.Time
	}
	var all []written
	for at := l.order.Front(); at != nil; at = at.Next() {
		m := at.Value.(*marked)
		line, w := m.line()
		text = append(text, line...)
		all = append(all, written{m, w})
	}
	l.mu.Unlock()

	l.broken = true                                                                   // until it has succeeded
	f, err := os.CreateTemp(filepath.Dir(l.o.File), filepath.Base(l.o.File)+".new-*") // of mode 0600
	if err != nil {
		return fmt.Errorf("labels: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name()) // the error says more
			err = fmt.Errorf("labels: %w", err)
		}
	}()
	if _, err = f.Write(text); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), l.o.File); err != nil {
		return err
	}
	if err = syncDir(filepath.Dir(l.o.File)); err != nil {
		return err
	}
	if l.file != nil {
		_ = l.file.Close() // it is nobody's any more
	}
	l.file, l.size, l.broken = f, int64(len(text)), false
	l.rewrite = max(minRewrite, 4*l.size)
	l.mu.Lock()
	for _, a := range all {
		a.m.kept(a.w)
	}
	l.mu.Unlock()
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// Close lets go of the file. What was added before is in it; what is added later is refused.
func (l *Labels) Close() error {
	l.io.Lock()
	defer l.io.Unlock()
	var err error
	if l.file != nil {
		err = l.file.Close()
		l.file, l.broken = nil, false
	}
	if l.lock != nil {
		err = errors.Join(err, l.lock.Close())
		l.lock = nil
	}
	return err
}
