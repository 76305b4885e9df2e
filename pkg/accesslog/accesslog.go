// Package accesslog learns how exchanges ended. Envoy reports every finished request to its gRPC access log service
// (envoy.service.accesslog.v3); an entry carries what the gateway and the outcome script wrote into the request's metadata, so it can be
// joined with the decision that began it. What Envoy reports is telemetry, not a ledger: it loses entries when this service is away, and
// says nothing. So every decision is expected to end, and one whose end is never heard of ends as [Unknown], never as well.
package accesslog

import (
	"container/list"
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/mcpgw/mcpgw/pkg/gateway"
)

// The ends of an exchange. The first eight are the outcome script's words.
const (
	OK           = "ok"           // a result
	ToolError    = "tool_error"   // a result with isError
	RPCError     = "rpc_error"    // a JSON-RPC error of the server
	NoResponse   = "no_response"  // a stream that ended without a response
	Truncated    = "truncated"    // cut within a message
	Unauthorized = "unauthorized" // the server refused our credential
	NotMCP       = "not_mcp"      // the server answered something else
	Unavailable  = "unavailable"  // a status that says that nobody served the request

	Answered = "answered" // the gateway's own reply; whether it refused is the decision's matter
	Accepted = "accepted" // a 2xx that nobody had to read: to a notification, or to a call of the broker, which reads it itself
	Aborted  = "aborted"  // reset, timeout, client gone, no route: see Details and Flags
	Unknown  = "unknown"  // decided, but no entry came within the time allowed
)

func ends() []string {
	return []string{OK, ToolError, RPCError, NoResponse, Truncated, Unauthorized, NotMCP, Unavailable}
}

// Decision is what the walk knew of an exchange.
type Decision struct {
	ID                         string
	Method, Server, Kind, Item string // names that the gateway knows; fit for labels
	Lane                       string
}

// Outcome is one exchange's end, or with Egress one call to a server within an exchange. Its strings are Envoy's and the outcome script's,
// cut to a bound; those of Decision are the gateway's.
type Outcome struct {
	Decision        // zero but for the ID where Decided is false
	Decided    bool // joined with a decision of this process
	Egress     bool // seen at the egress listener: a call of the broker
	Log        string
	Outcome    string // one of the constants above
	ErrorCode  int    // JSON-RPC, 0 = none
	Code       int    // HTTP status towards the client, 0 = none was sent
	Upstream   int    // the server's own HTTP status where the guard replaced it, else 0
	Details    string // response code details
	Flags      []string
	Cluster    string
	Attempts   int
	Start      time.Time
	Duration   time.Duration
	BytesIn    uint64 // of the request body
	BytesOut   uint64 // of the response body
	Messages   int    // in the answer
	Inexact    bool   // the answer was too long to be read to the letter
	TraceID    string
	SpanID     string
	RequestID  string // Envoy's x-request-id; a client may have chosen it
	UserAgent  string // the client's claim
	ClientAddr string
}

// Options bound a Log. Zero values mean the defaults named here.
type Options struct {
	// Report is told of every end, from Run's goroutine alone, one after the other. While it lasts, entries queue.
	Report  func(*Outcome)
	Queue   int           // entries that wait for Report; 8,192. What finds it full is lost, and counted: Envoy is never kept waiting
	Pending int           // decisions that wait for their end; 65,536. The oldest ends as Unknown when there are more
	MaxAge  time.Duration // after which a decision without an end is Unknown; 35 min, a call's 30 and some
	Now     func() time.Time
}

// early is how long an entry waits for its decision: the walk's report and Envoy's race each other.
const early = 5 * time.Second

// Log is the service. All methods may be called from many goroutines.
type Log struct {
	alsv3.UnimplementedAccessLogServiceServer
	o     Options
	queue chan *Outcome
	lost  atomic.Uint64

	mu        sync.Mutex // guards all below
	byID      map[string]*list.Element
	decisions list.List // of *waiting that have no entry yet, oldest first
	entries   list.List // of *waiting that have no decision yet, oldest first
}

// waiting is one half of a pair.
type waiting struct {
	decision Decision
	outcome  *Outcome // nil: the entry has not come
	since    time.Time
}

// New makes the service; Run makes it work.
func New(o Options) *Log {
	if o.Queue <= 0 {
		o.Queue = 8192
	}
	if o.Pending <= 0 {
		o.Pending = 65_536
	}
	if o.MaxAge <= 0 {
		o.MaxAge = 35 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Log{o: o, queue: make(chan *Outcome, o.Queue), byID: map[string]*list.Element{}}
}

// Register adds the service to a gRPC server.
func (l *Log) Register(r grpc.ServiceRegistrar) { alsv3.RegisterAccessLogServiceServer(r, l) }

// Lost counts the ends that found the queue full.
func (l *Log) Lost() uint64 { return l.lost.Load() }

// Pending is the number of decisions whose end is awaited.
func (l *Log) Pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.decisions.Len()
}

// Decided says that an exchange was decided and its end is to be expected, within MaxAge: exchanges that may last longer, such as a
// client's standing stream, are not announced. It never blocks.
func (l *Log) Decided(d Decision) {
	if d.ID == "" {
		return
	}
	l.mu.Lock()
	at, ok := l.byID[d.ID]
	var done, out *Outcome
	switch {
	case ok && at.Value.(*waiting).outcome != nil: // the entry came first
		done = l.entries.Remove(at).(*waiting).outcome
		delete(l.byID, d.ID)
		done.Decision, done.Decided = d, true
	case ok: // announced twice
	default:
		if l.decisions.Len() >= l.o.Pending {
			out = l.expire(&l.decisions)
		}
		l.byID[d.ID] = l.decisions.PushBack(&waiting{decision: d, since: l.o.Now()})
	}
	l.mu.Unlock()
	l.put(done)
	l.put(out)
}

// put queues an end for Report, or loses it.
func (l *Log) put(o *Outcome) {
	if o == nil {
		return
	}
	select {
	case l.queue <- o:
	default:
		l.lost.Add(1)
	}
}

// expire ends the wait of a list's oldest half pair. The caller holds mu.
func (l *Log) expire(from *list.List) *Outcome {
	w := from.Remove(from.Front()).(*waiting)
	if w.outcome != nil {
		delete(l.byID, w.outcome.ID)
		return w.outcome
	}
	delete(l.byID, w.decision.ID)
	return &Outcome{Decision: w.decision, Decided: true, Outcome: Unknown, Start: w.since}
}

// seen takes one entry.
func (l *Log) seen(o *Outcome) {
	if o.ID == "" || o.Egress {
		l.put(o)
		return
	}
	var out *Outcome
	l.mu.Lock()
	at, ok := l.byID[o.ID]
	switch {
	case ok && at.Value.(*waiting).outcome == nil:
		o.Decision, o.Decided = l.decisions.Remove(at).(*waiting).decision, true
		delete(l.byID, o.ID)
		out = o
	case ok: // seen twice: the first counts
	default:
		if l.entries.Len() >= l.o.Queue {
			out = l.expire(&l.entries)
		}
		l.byID[o.ID] = l.entries.PushBack(&waiting{outcome: o, since: l.o.Now()})
	}
	l.mu.Unlock()
	l.put(out)
}

// sweep ends the waits that have lasted too long; at most as many at once as the queue can take, the rest at the next sweep.
func (l *Log) sweep() {
	now := l.o.Now()
	for room := cap(l.queue) - len(l.queue); room > 0; room-- {
		l.mu.Lock()
		var out *Outcome
		switch {
		case over(&l.entries, now, early):
			out = l.expire(&l.entries)
		case over(&l.decisions, now, l.o.MaxAge):
			out = l.expire(&l.decisions)
		}
		l.mu.Unlock()
		if out == nil {
			return
		}
		l.put(out)
	}
}

func over(l *list.List, now time.Time, age time.Duration) bool {
	at := l.Front()
	return at != nil && now.Sub(at.Value.(*waiting).since) >= age
}

// Run reports ends until ctx is over, then what is queued still, and returns ctx's error.
func (l *Log) Run(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case o := <-l.queue:
			l.o.Report(o)
		case <-t.C:
			l.sweep()
		case <-ctx.Done():
			for {
				select {
				case o := <-l.queue:
					l.o.Report(o)
				default:
					return ctx.Err()
				}
			}
		}
	}
}

// StreamAccessLogs implements Envoy's service. It reads as fast as Envoy writes and never answers before the stream ends.
func (l *Log) StreamAccessLogs(stream alsv3.AccessLogService_StreamAccessLogsServer) error {
	var name string
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return stream.SendAndClose(&alsv3.StreamAccessLogsResponse{})
		case err != nil:
			return err
		}
		if id := m.GetIdentifier(); id != nil { // in the first message alone
			name = clip(id.GetLogName())
		}
		for _, e := range m.GetHttpLogs().GetLogEntry() {
			if o := read(e, name); o != nil {
				l.seen(o)
			}
		}
	}
}

// maxText bounds what is kept of a text in an entry, bytes.
const maxText = 256

func clip(s string) string {
	if len(s) > maxText {
		s = strings.Clone(s[:maxText]) // without its long rest
	}
	return strings.ToValidUTF8(s, "�")
}

// read turns an entry into an outcome. Anything in it may be missing or of another type. nil: not an end, such as the entry of a stream
// that has begun or goes on.
func read(e *datav3.HTTPAccessLogEntry, log string) *Outcome {
	c, req, resp := e.GetCommonProperties(), e.GetRequest(), e.GetResponse()
	switch c.GetAccessLogType() {
	case datav3.AccessLogType_NotSet, datav3.AccessLogType_DownstreamEnd:
	default:
		return nil
	}
	ours := c.GetMetadata().GetFilterMetadata()["mcpgw"].GetFields()
	theirs := c.GetMetadata().GetFilterMetadata()["mcpgw_resp"].GetFields()
	o := &Outcome{
		Log:        log,
		ErrorCode:  number(theirs["error_code"]),
		Code:       int(min(resp.GetResponseCode().GetValue(), 999)),
		Upstream:   number(theirs["upstream_status"]),
		Details:    clip(resp.GetResponseCodeDetails()),
		Flags:      flags(c.GetResponseFlags()),
		Cluster:    clip(c.GetUpstreamCluster()),
		Attempts:   int(c.GetUpstreamRequestAttemptCount()),
		Duration:   duration(c.GetDuration(), c.GetTimeToLastDownstreamTxByte()),
		BytesIn:    req.GetRequestBodyBytes(),
		BytesOut:   resp.GetResponseBodyBytes(),
		Messages:   number(theirs["messages"]),
		TraceID:    clip(c.GetCustomTags()["trace_id"]),
		SpanID:     clip(c.GetCustomTags()["span_id"]),
		RequestID:  clip(req.GetRequestId()),
		UserAgent:  clip(req.GetUserAgent()),
		ClientAddr: clip(c.GetDownstreamRemoteAddress().GetSocketAddress().GetAddress()),
	}
	if t := c.GetStartTime(); t.IsValid() {
		o.Start = t.AsTime()
	}
	if v, ok := theirs["exact"].GetKind().(*structpb.Value_BoolValue); ok {
		o.Inexact = !v.BoolValue
	}
	o.ID = clip(ours["decision_id"].GetStringValue())
	if o.ID == "" {
		// The egress listener has no ext_proc: there the broker names the exchange in a header.
		o.ID = clip(req.GetRequestHeaders()[gateway.HeaderDecision])
		o.Egress = o.ID != ""
	}
	switch said := theirs["outcome"].GetStringValue(); {
	case slices.Contains(ends(), said):
		o.Outcome = said
	case ours["own_reply"].GetBoolValue():
		o.Outcome = Answered
	case len(o.Flags) == 0 && o.Code >= 200 && o.Code < 300 && strings.HasPrefix(o.Details, "via_upstream"):
		o.Outcome = Accepted
	default:
		o.Outcome = Aborted
	}
	return o
}

// number reads an integer; anything else is 0.
func number(v *structpb.Value) int {
	f := v.GetNumberValue()
	if f != math.Trunc(f) || math.Abs(f) > 1<<53 { // also NaN and infinities
		return 0
	}
	return int(f)
}

// duration is the first that is there and sound.
func duration(ds ...*durationpb.Duration) time.Duration {
	for _, d := range ds {
		if d.IsValid() && d.AsDuration() >= 0 {
			return d.AsDuration()
		}
	}
	return 0
}

// flags names the flags that are set, as the proto does, sorted.
func flags(f *datav3.ResponseFlags) []string {
	if f == nil {
		return nil
	}
	var out []string
	f.ProtoReflect().Range(func(d protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		out = append(out, string(d.Name()))
		return true
	})
	slices.Sort(out)
	return out
}
