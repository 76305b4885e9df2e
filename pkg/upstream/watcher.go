package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/sse"
)

// pace is how often a watcher turns to its server. Only tests have another.
type pace struct {
	least, most time.Duration // between attempts at a server that is down, and at a stream that ends
	steady      time.Duration // a stream that lived this long was in order
	settle      time.Duration // changes that come together are one refresh
	spacing     time.Duration // from the beginning of one refresh to that of the next
	floor       time.Duration // the shortest ttlMs that is followed
}

var ordinary = pace{
	least: 500 * time.Millisecond, most: time.Minute, steady: 10 * time.Second,
	settle: 50 * time.Millisecond, spacing: time.Second, floor: 5 * time.Second,
}

// DefaultRefresh is how often a server is read that promises no ttlMs.
const DefaultRefresh = 5 * time.Minute

// Watcher keeps what is known of one server fresh: it reads at the start, when the server's ttlMs is over, when the server
// says that a list changed, and again and again, ever more slowly, while the server is down.
type Watcher struct {
	client  *Client
	publish func(*catalog.Source)
	log     *slog.Logger
	refresh time.Duration
	poke    chan struct{} // holds one wish for a refresh
	pace    pace
}

// NewWatcher returns a watcher; nothing happens before Run. publish is called from Run's goroutine, one call at a time, and
// only with a source that differs from the one before. refresh 0 means DefaultRefresh.
func NewWatcher(c *Client, publish func(*catalog.Source), refresh time.Duration, log *slog.Logger) *Watcher {
	if refresh <= 0 {
		refresh = DefaultRefresh
	}
	return &Watcher{
		client: c, publish: publish, refresh: refresh, pace: ordinary, poke: make(chan struct{}, 1),
		log: log.With("component", "upstream", "server", c.Server),
	}
}

// Refresh asks for a reading soon. It never blocks; wishes that come together are one.
func (w *Watcher) Refresh() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// Run watches until ctx ends, and returns nil. All state is this loop's own; the one goroutine it starts, which holds the
// stream of changes open, has ended when it returns.
func (w *Watcher) Run(ctx context.Context) error {
	var (
		last      = &catalog.Source{Server: w.client.Server}
		digest    = last.Digest()
		fails     int
		listener  sync.WaitGroup
		listening string      // to what
		stop      = func() {} // ends the listener and waits for it
	)
	defer func() { stop() }()
	listen := func(s *catalog.Source) {
		members := changes(s)
		to := fmt.Sprint(s.Modern, members)
		if to == listening {
			return
		}
		stop()
		lctx, cancel := context.WithCancel(ctx)
		listener.Go(func() { w.listen(lctx, s.Modern, members) })
		listening, stop = to, func() { cancel(); listener.Wait(); listening = "" }
	}
	for {
		began := time.Now()
		s, err := w.client.Fetch(ctx)
		if ctx.Err() != nil {
			return nil // the end that was asked for
		}
		var wait time.Duration
		if err != nil {
			stop()
			fails++
			wait = w.backoff(fails)
			s = degraded(last, ReasonOf(err))
			if s.Degraded != last.Degraded {
				w.log.WarnContext(ctx, "server degraded", "reason", s.Degraded, "cause", causes(err))
			}
		} else {
			fails = 0
			wait = jitter(w.due(s))
			s = s.Reuse(last)
			if last.Degraded != "" {
				w.log.InfoContext(ctx, "server is back")
			}
			listen(s)
		}
		last = s
		if d := s.Digest(); d != digest {
			digest = d
			w.publish(s)
		}
		if !w.await(ctx, wait, began) {
			return nil
		}
	}
}

// await returns when the next reading is due, false when ctx ended.
func (w *Watcher) await(ctx context.Context, wait time.Duration, began time.Time) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-w.poke:
	}
	if !sleep(ctx, max(w.pace.settle, w.pace.spacing-time.Since(began))) {
		return false
	}
	select { // a wish that came meanwhile is granted by the same reading
	case <-w.poke:
	default:
	}
	return true
}

// due is how long what was read counts as fresh.
func (w *Watcher) due(s *catalog.Source) time.Duration {
	if s.TTL <= 0 {
		return w.refresh
	}
	return max(s.TTL, w.pace.floor)
}

// degraded is what is known of a server that cannot be read now.
func degraded(last *catalog.Source, why Reason) *catalog.Source {
	s := *last
	s.Degraded = string(why)
	return &s
}

// causes is the text of an error and of what it wraps: for the log alone.
func causes(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Cause != nil {
		return e.Error() + ": " + e.Cause.Error()
	}
	return err.Error()
}

// listen holds a stream of changes open for as long as the server offers one.
func (w *Watcher) listen(ctx context.Context, modern bool, announced []string) {
	if len(announced) == 0 {
		return
	}
	for fails := 0; ; {
		began := time.Now()
		open := w.legacyStream
		if modern {
			open = func(ctx context.Context, again bool) bool { return w.modernStream(ctx, announced, again) }
		}
		if !open(ctx, fails > 0) || ctx.Err() != nil {
			return
		}
		w.Refresh() // the end of a stream may be the end of the server
		if time.Since(began) >= w.pace.steady {
			fails = 0
		}
		fails++
		if !sleep(ctx, w.backoff(fails)) {
			return
		}
	}
}

// changes names the lists whose changes the server announces, as members of subscriptions/listen.
func changes(s *catalog.Source) []string {
	var out []string
	all, err := object(s.Capabilities)
	if err != nil {
		return nil
	}
	for _, capability := range []string{"tools", "prompts", "resources"} {
		c, err := object(all[capability])
		if err == nil && c["listChanged"].Kind() == jsontext.KindTrue {
			out = append(out, capability+"ListChanged")
		}
	}
	return out
}

// modernStream is one subscriptions/listen, to its end. It returns false where the server has none. again says that events
// may have been lost before it.
func (w *Watcher) modernStream(ctx context.Context, announced []string, again bool) bool {
	params := []byte(`{"notifications":{`)
	for _, member := range announced {
		params = append(append(append(params, '"'), member...), `":true,`...)
	}
	params[len(params)-1] = '}' // announced is never empty
	params = append(append(append(params, `,"_meta":`...), w.client.meta()...), '}')
	return w.follow(ctx, again, func(ctx context.Context) (*http.Response, error) {
		return w.client.Do(ctx, request(`"listen"`, mcp.MethodListen, params), modern(mcp.MethodListen))
	})
}

// legacyStream is one GET stream of a session of its own, to its end. It returns false where the server has none.
func (w *Watcher) legacyStream(ctx context.Context, again bool) bool {
	session, err := w.client.Initialize(ctx, w.client.initializeParams())
	if err != nil {
		return true
	}
	defer session.forget(ctx)
	return w.follow(ctx, again, func(ctx context.Context) (*http.Response, error) { return session.Stream(ctx, nil) })
}

// follow opens a stream and asks for a refresh at each change. It returns false where the server refuses to open one.
func (w *Watcher) follow(ctx context.Context, again bool, open func(context.Context) (*http.Response, error)) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slow := time.AfterFunc(w.client.Timeout, cancel) // the head must come in time; what follows may take for ever
	resp, err := open(ctx)
	slow.Stop()
	if err != nil {
		return true
	}
	defer resp.Body.Close()
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != http.StatusOK || media != "text/event-stream" {
		return resp.StatusCode >= 500
	}
	if again {
		w.Refresh()
	}
	events := sse.NewReader(resp.Body, maxEvent)
	for {
		e, err := events.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				w.log.DebugContext(ctx, "stream of changes cut", "cause", err.Error())
			}
			return true
		}
		if m, err := object(e.Data); err == nil && !e.Comment {
			switch str(m["method"]) {
			case mcp.NotifyToolsChanged, mcp.NotifyResourcesChanged, mcp.NotifyPromptsChanged:
				w.Refresh()
			}
		}
	}
}

// backoff is how long to wait after so many failures in a row: twice as long each time, a random half of it taken away.
func (w *Watcher) backoff(fails int) time.Duration {
	d := min(w.pace.least<<min(fails-1, 20), w.pace.most)
	return d/2 + rand.N(d/2+1)
}

// jitter spreads what falls due together, by a tenth.
func jitter(d time.Duration) time.Duration { return d*9/10 + rand.N(d/10+1) }

// sleep waits; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
