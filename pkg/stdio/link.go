package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// Bounds of one link, beside those of Options.
const (
	maxHeld   = 64 << 20 // bytes of answers that wait for a slow caller
	maxEvents = 64       // messages of one stream that wait for a slow caller
	maxAsked  = 64       // requests of a child that wait for a client's answer
)

// Reasons that an error's data gives for a call that its child did not answer.
const (
	reasonDown      = "down"      // no child runs, or it ended
	reasonTimeout   = "timeout"   // no byte within Options.CallTimeout
	reasonOverload  = "overload"  // a bound of Options is reached
	reasonMalformed = "malformed" // the answer cannot be used
	reasonCancelled = "cancelled" // ended by notifications/cancelled
)

// unserved is the fault of a call that was taken and then not answered: HTTP 200. The message never says more than the reason.
func unserved(server, reason string, cause error) *fault.Error {
	return fault.New(fault.Upstream, "the server did not answer").With(reasonData(server, reason)).Wrap(cause)
}

// refused is the fault of a call that the child was never given: HTTP 503. It may be sent again, and says nothing of the child's era.
func refused(server, reason string, cause error) *fault.Error {
	return fault.New(fault.Overload, "the server cannot take this request now").With(reasonData(server, reason)).Wrap(cause)
}

func reasonData(server, reason string) []byte {
	return append(jsonrpc.AppendString([]byte(`{"server":`), server), `,"reason":"`+reason+`"}`...)
}

// peer is who a link talks for: it gets what the child sends of its own accord, in order, from the link's reader.
type peer interface {
	// request gives the answer to a child's request; nil says that the answer comes later, by link.send.
	request(m *jsonrpc.Message) []byte
	// notify gets a notification that belongs to no call.
	notify(m *jsonrpc.Message)
}

// call is one request on its way. Fields without a remark are fixed before it is sent.
type call struct {
	id, token []byte // the caller's id, and its progress token or nil: JSON text
	session   *session
	listen    bool        // subscriptions/listen: notifications come by subscription id
	probe     bool        // server/discover
	events    chan []byte // notifications about the call, ready to be sent on
	done      chan struct{}

	// Set once, before done is closed: the child's answer as it came, or why there is none.
	answer *jsonrpc.Message
	fail   *fault.Error

	// Guarded by link.mu.
	key  int64
	sent bool // the child was given the request
	over bool // answered, failed or cancelled
	gone bool // the caller left, which in the legacy era does not end the call
}

func newCall(m *jsonrpc.Message, x *session) *call {
	c := &call{session: x, listen: m.Method == mcp.MethodListen, probe: m.Method == mcp.MethodDiscover, events: make(chan []byte, maxEvents), done: make(chan struct{})}
	c.id = append(c.id, m.ID...) // copies: the body may be freed long before the answer comes
	if t := m.Meta.Get(mcp.MetaProgress); t.Exists() {
		c.token = append(c.token, t.Raw...)
	}
	return c
}

// outgoing is a line for the child's stdin.
type outgoing struct {
	line []byte
	call *call  // whose request it is; nil for other messages
	free func() // called once the line is written or dropped; nil for nothing
}

// link is one child with what is under way to it. Ids of requests are its own; the callers' ids and progress tokens never reach the
// child, so that callers cannot see, disturb or guess each other's.
type link struct {
	o     *Options
	log   *slog.Logger
	count *counters
	p     *process
	peer  peer
	warn  *rate.Limiter

	queue chan outgoing
	halt  chan struct{} // closed to end it
	dead  chan struct{} // closed once every call has failed and no new one is taken
	gone  chan struct{} // closed once the process is gone

	haltOnce sync.Once

	mu    sync.Mutex
	last  int64
	calls map[int64]*call
	held  int
	err   error // why it is dead
}

// startLink starts a child and serves it until it ends or stop is called.
func startLink(o *Options, threads starter, log *slog.Logger, count *counters, by peer) (*link, error) {
	p, err := startProcess(o, threads, log, &count.stderr)
	if err != nil {
		return nil, err
	}
	log = log.With("pid", p.pid)
	l := &link{
		o: o, log: log, count: count, p: p, peer: by,
		warn:  rate.NewLimiter(1, 5),
		queue: make(chan outgoing, 2*o.MaxCalls+maxAsked), // requests, their cancellations, answers
		halt:  make(chan struct{}), dead: make(chan struct{}), gone: make(chan struct{}),
		calls: make(map[int64]*call),
	}
	go l.run()
	return l, nil
}

// stop ends the child; l.gone tells when it is.
func (l *link) stop() { l.haltOnce.Do(func() { close(l.halt) }) }

// run owns the child's pipes and its end.
func (l *link) run() {
	defer close(l.gone)
	read, written := make(chan error, 1), make(chan error, 1)
	go func() { read <- l.read() }()
	go func() { written <- l.write() }()
	var err error
	readEnded := false
	select {
	case <-l.halt:
		err = errors.New("stopped")
	case err = <-read:
		readEnded = true
	case err = <-written:
		// A child that died has closed stdin and stdout. Its last answers are still in the pipe and come first.
		t := time.NewTimer(drainTime)
		select {
		case rerr := <-read:
			readEnded = true
			if !errors.Is(rerr, io.EOF) {
				err = rerr
			}
		case <-t.C:
		case <-l.halt:
		}
		t.Stop()
	}
	if errors.Is(err, errLineTooLong) || errors.Is(err, os.ErrDeadlineExceeded) {
		l.p.signal(syscall.SIGKILL) // it is out of step or hung: nothing to wait for
	}
	l.end(err)
	l.p.stop()
	if !readEnded {
		<-read //nolint:errcheck // how the reading ended is known already
	}
	l.p.stdout.Close()
	l.log.Info("child ended", "status", l.p.status, "cause", err)
}

// end fails every call and takes no more.
func (l *link) end(cause error) {
	l.mu.Lock()
	calls := l.calls
	l.calls, l.err = nil, cause
	for _, c := range calls {
		c.over = true
		c.fail = unserved(l.o.Name, reasonDown, cause)
	}
	l.mu.Unlock()
	close(l.dead) // first: who hears of the failure and calls again must wait for the next child
	for _, c := range calls {
		close(c.done)
	}
}

// alive reports whether the link still takes calls.
func (l *link) alive() bool {
	select {
	case <-l.dead:
		return false
	default:
		return true
	}
}

// write is the one writer of the child's stdin.
func (l *link) write() error {
	for {
		select {
		case <-l.dead:
			return nil
		case out := <-l.queue:
			if err := l.writeOne(out); err != nil {
				return err
			}
		}
	}
}

func (l *link) writeOne(out outgoing) error {
	if out.free != nil {
		defer out.free()
	}
	if c := out.call; c != nil {
		l.mu.Lock()
		c.sent = !c.over
		sent := c.sent
		l.mu.Unlock()
		if !sent {
			return nil
		}
	}
	// A busy child may leave its stdin unread for as long as a call may take, but not longer.
	if err := l.p.stdin.SetWriteDeadline(time.Now().Add(l.o.CallTimeout)); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	if _, err := l.p.stdin.Write(out.line); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	return nil
}

// read is the one reader of the child's stdout.
func (l *link) read() error {
	lines := newLineReader(l.p.stdout, l.o.MaxMessage)
	for {
		line, err := lines.next()
		if err != nil {
			return err
		}
		m, err := jsonrpc.Read(line, jsonrpc.Limits{})
		if err != nil {
			l.malformed(err)
			continue
		}
		switch m.Kind {
		case jsonrpc.Response:
			l.answered(m)
		case jsonrpc.Request:
			if reply := l.peer.request(m); reply != nil {
				_ = l.enqueue(outgoing{line: append(reply, '\n')}) // a child that does not read gets no answers
			}
		case jsonrpc.Notification:
			l.notified(m)
		}
	}
}

// malformed drops a line that is no message. Where it says which call it would have answered, that call need not wait any longer.
func (l *link) malformed(err error) {
	l.count.malformed.Add(1)
	if l.warn.Allow() {
		l.log.Warn("dropped a line that is no JSON-RPC message", "error", err)
	}
	var e *jsonrpc.Error
	if !errors.As(err, &e) || e.ID == nil {
		return
	}
	if c := l.take(e.ID, 0); c != nil {
		c.fail = unserved(l.o.Name, reasonMalformed, err)
		close(c.done)
	}
}

// take removes the call that a child's answer names and books the answer's size. It returns nil where no such call is open.
func (l *link) take(id []byte, size int) *call {
	key, ok := ourNumber(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[key]
	if !ok || c == nil {
		l.count.late.Add(1)
		return nil
	}
	delete(l.calls, key)
	c.over = true
	if l.held+size > maxHeld {
		c.fail = unserved(l.o.Name, reasonOverload, errors.New("too many answers wait for slow callers"))
		return c
	}
	l.held += size
	return c
}

// release gives back what take booked; who waits for a call does it once the answer is sent.
func (l *link) release(c *call) {
	if c.answer != nil {
		l.mu.Lock()
		l.held -= len(c.answer.Body)
		l.mu.Unlock()
	}
}

func (l *link) answered(m *jsonrpc.Message) {
	if c := l.take(m.ID, len(m.Body)); c != nil {
		if c.fail == nil {
			c.answer = m
		}
		close(c.done)
	}
}

// notified brings a notification to the call that it is about, or to the peer.
func (l *link) notified(m *jsonrpc.Message) {
	switch sub := m.Meta.Get(mcp.MetaSubscription); {
	case m.Method == mcp.NotifyProgress:
		token := m.Params.Get(mcp.MetaProgress)
		if c := l.open(token.Raw); c != nil && c.token != nil {
			select {
			case c.events <- jsonrpc.Splice(m.Body, jsonrpc.Edit{Pos: token.Pos, Len: len(token.Raw), Text: c.token}):
				return
			default: // a caller that slow can do without one step
			}
		}
		l.count.notifications.Add(1)
	case sub.Exists():
		c := l.open(sub.Raw)
		if c == nil || !c.listen {
			l.count.notifications.Add(1)
			return
		}
		select {
		case c.events <- jsonrpc.Splice(m.Body, jsonrpc.Edit{Pos: sub.Pos, Len: len(sub.Raw), Text: c.id}):
		default: // a lost notification would go unnoticed; a lost stream does not
			l.abandon(c, "the stream's reader lags", unserved(l.o.Name, reasonOverload, errors.New("the listener lags")))
		}
	case m.Method == mcp.NotifyCancelled:
		// On stdio a modern server ends a subscription so; over HTTP the result does.
		if c := l.open(m.Params.Get("requestId").Raw); c != nil && c.listen {
			l.finishListen(c)
			return
		}
		l.peer.notify(m) // a legacy child takes back a request of its own
	default:
		l.peer.notify(m)
	}
}

// finishListen ends a subscription that the child tore down.
func (l *link) finishListen(c *call) {
	l.mu.Lock()
	if c.over {
		l.mu.Unlock()
		return
	}
	delete(l.calls, c.key)
	c.over = true
	l.mu.Unlock()
	key := strconv.AppendInt(nil, c.key, 10)
	body := jsonrpc.Result(key, []byte(`{"resultType":"complete","_meta":{"`+mcp.MetaSubscription+`":`+string(key)+`}}`))
	m, err := jsonrpc.Read(body, jsonrpc.Limits{})
	if err != nil { // cannot happen: the text is ours
		c.fail = unserved(l.o.Name, reasonDown, err)
	} else {
		c.answer = m
		l.mu.Lock()
		l.held += len(body)
		l.mu.Unlock()
	}
	close(c.done)
}

// open is the call to which the child refers by the number that it was given.
func (l *link) open(raw []byte) *call {
	key, ok := ourNumber(raw)
	if !ok {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls[key]
}

// ourNumber reads back a number of ours. A child that made a string of it is understood: our numbers are all integers.
func ourNumber(raw []byte) (int64, bool) {
	if len(raw) >= 2 && raw[0] == '"' {
		raw = raw[1 : len(raw)-1]
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	return n, err == nil
}

// begin books a call and gives it its number.
func (l *link) begin(c *call) *fault.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.calls == nil:
		return refused(l.o.Name, reasonDown, l.err)
	case len(l.calls) >= l.o.MaxCalls:
		return refused(l.o.Name, reasonOverload, fmt.Errorf("%d calls are open", len(l.calls)))
	}
	l.last++
	c.key = l.last
	l.calls[c.key] = c
	return nil
}

// send books the call and queues its request, the id and the progress token replaced by the call's number. free is called once the
// body is no longer needed, whatever becomes of the call.
func (l *link) send(c *call, m *jsonrpc.Message, free func()) *fault.Error {
	if f := l.begin(c); f != nil {
		free()
		return f
	}
	key := strconv.AppendInt(nil, c.key, 10)
	edits := []jsonrpc.Edit{{Pos: idPos(m), Len: len(m.ID), Text: key}}
	if c.token != nil {
		t := m.Meta.Get(mcp.MetaProgress)
		e := jsonrpc.Edit{Pos: t.Pos, Len: len(t.Raw), Text: key}
		if e.Pos < edits[0].Pos {
			edits = []jsonrpc.Edit{e, edits[0]}
		} else {
			edits = append(edits, e)
		}
	}
	return l.submit(c, toLine(m.Body, edits...), free)
}

// submit queues the request of a call that is booked.
func (l *link) submit(c *call, line []byte, free func()) *fault.Error {
	if f := l.enqueue(outgoing{line: line, call: c, free: free}); f != nil {
		l.mu.Lock()
		if !c.over {
			c.over = true
			delete(l.calls, c.key)
		}
		l.mu.Unlock()
		return f
	}
	return nil
}

// ask sends a request of our own.
func (l *link) ask(method string, params string) (*call, *fault.Error) {
	c := &call{done: make(chan struct{})}
	if f := l.begin(c); f != nil {
		return nil, f
	}
	line := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`+"\n", c.key, method, params)
	return c, l.submit(c, line, nil)
}

// tell sends a message that needs no answer; a full queue drops it, and the error says so.
func (l *link) tell(message []byte, edits ...jsonrpc.Edit) *fault.Error {
	return l.enqueue(outgoing{line: toLine(message, edits...)})
}

func (l *link) enqueue(out outgoing) *fault.Error {
	select {
	case l.queue <- out:
		return nil
	default:
		if out.free != nil {
			out.free()
		}
		return refused(l.o.Name, reasonOverload, errors.New("the child does not read its stdin"))
	}
}

// abandon ends a call before its answer, for the caller with f, for the child with notifications/cancelled. It reports false where
// the call was over already.
func (l *link) abandon(c *call, reason string, f *fault.Error) bool {
	l.mu.Lock()
	if c.over {
		l.mu.Unlock()
		return false
	}
	delete(l.calls, c.key)
	c.over = true
	sent := c.sent
	l.mu.Unlock()
	c.fail = f
	close(c.done)
	if sent {
		line := fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%q,"params":{"requestId":%d,"reason":%q}}`+"\n", mcp.NotifyCancelled, c.key, reason)
		if f := l.enqueue(outgoing{line: line}); f != nil {
			l.log.LogAttrs(context.Background(), slog.LevelDebug, "cancellation not sent", slog.Any("error", f))
		}
	}
	return true
}

// callOf finds a session's open call by the client's id.
func (l *link) callOf(x *session, id []byte) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		if c.session == x && string(c.id) == string(id) {
			return c
		}
	}
	return nil
}

// left notes that a call's caller is not there any more.
func (l *link) left(c *call) {
	l.mu.Lock()
	c.gone = true
	l.mu.Unlock()
}

// callers are the open calls, newest last, whose callers are still there.
func (l *link) callers() (newest *call, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		if c.gone || c.events == nil {
			continue
		}
		n++
		if newest == nil || c.key > newest.key {
			newest = c
		}
	}
	return newest, n
}

// load is the number of open calls.
func (l *link) load() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.calls)
}

// idPos is the offset of the id in a message's body. Beside id, a body has one large value, params, result or error, whose place is
// known; so what is left to read is a few dozen bytes.
func idPos(m *jsonrpc.Message) int {
	big := m.Params.Value
	if m.Kind == jsonrpc.Response {
		big = m.Result
		if m.Error.Exists() {
			big = m.Error
		}
	}
	small := m.Body
	if big.Exists() {
		small = jsonrpc.Splice(m.Body, jsonrpc.Edit{Pos: big.Pos, Len: len(big.Raw), Text: []byte("0")})
	}
	o, err := jsonrpc.Parse(small, jsonrpc.Limits{})
	if err != nil { // cannot happen: the whole was read already
		panic(fmt.Sprintf("stdio: envelope of a message that was read: %v", err))
	}
	pos := o.Get("id").Pos
	if big.Exists() && pos > big.Pos {
		pos += len(big.Raw) - 1
	}
	return pos
}

// toLine makes a message one line. Line breaks stand only between JSON tokens, where a space means the same.
func toLine(body []byte, edits ...jsonrpc.Edit) []byte {
	line := jsonrpc.Splice(body, append(edits, jsonrpc.Edit{Pos: len(body), Text: []byte("\n")})...)
	blank(line[:len(line)-1], '\n')
	blank(line[:len(line)-1], '\r')
	return line
}

// counters are what State tells of dropped things.
type counters struct {
	malformed, late, notifications, stderr, messages, refused atomic.Int64
}
