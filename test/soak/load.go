package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// Bounds of the load.
const (
	workers = 8
	pace    = 40 * time.Millisecond // of one worker, at most one operation in this time
	pooled  = 16                    // sessions that live on, for others to use
	bigText = 1 << 20
	shown   = 10 // unexpected answers that are kept whole

	remembered = 500 // sessions that were left, and as many that were deleted
)

// Ways in which an exchange may end. The names stand in the report.
const (
	ok       = "ok"       // the right result
	denied   = "denied"   // refused by policy, the item visible
	unknown  = "unknown"  // hidden, or not there
	upstream = "upstream" // the server's fault, with a reason
	cut      = "cut"      // an answer that ends in its middle
)

// load keeps the gateway busy and holds each answer against what it promises.
type load struct {
	w *world

	mu         sync.Mutex
	endings    map[string]map[string]int // by operation and ending
	unexpected map[string]int            // by operation
	samples    []string                  // the first unexpected answers
	pool       []idleSession             // legacy sessions in use, the one longest unused first
	abandoned  []*harness.Client         // legacy sessions that nobody comes back to
	deleted    []*harness.Client         // legacy sessions that were ended
	serial     atomic.Int64
}

// idleSession is a session that waits for its next use.
type idleSession struct {
	*harness.Client
	since time.Time
}

func newLoad(w *world) *load {
	return &load{w: w, endings: map[string]map[string]int{}, unexpected: map[string]int{}}
}

// operation is one thing that clients do. It returns how it ended; what is not as promised it reports to t.
type operation struct {
	name   string
	weight int
	do     func(l *load, t *scope) string
}

func operations() []operation {
	return []operation{
		{"call", 20, (*load).call},
		{"call denied", 6, (*load).deny},
		{"call hidden or unknown", 6, (*load).hide},
		{"list", 10, (*load).list},
		{"read, get, complete", 5, (*load).read},
		{"tool that fails", 2, (*load).fail},
		{"call on a server that comes and goes", 6, (*load).shaky},
		{"call on a tool that comes and goes", 4, (*load).blinking},
		{"call on a server that is added and removed", 4, (*load).added},
		{"call on a child that is killed", 4, (*load).child},
		{"legacy session", 6, (*load).session},
		{"legacy call in a living session", 10, (*load).reuse},
		{"foreign session", 3, (*load).foreign},
		{"progress", 3, (*load).progress},
		{"GET stream", 3, (*load).get},
		{"listen stream", 3, (*load).listen},
		{"client that vanishes", 4, (*load).vanish},
		{"cancellation", 3, (*load).cancel},
		{"body of 1 MiB", 2, (*load).big},
		{"malformed", 8, (*load).malformed},
	}
}

// run keeps the load up until ctx ends, then waits for what is in flight.
func (l *load) run(ctx context.Context) {
	var all []operation
	for _, o := range operations() {
		all = append(all, slices.Repeat([]operation{o}, o.weight)...)
	}
	var done sync.WaitGroup
	for range workers {
		done.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					l.one(all[rand.IntN(len(all))])
				case <-ctx.Done():
					return
				}
			}
		})
	}
	done.Wait()
}

// one does an operation and writes down how it ended.
func (l *load) one(o operation) bool {
	ending := ""
	failures := within(func(t *scope) { ending = o.do(l, t) })
	if len(failures) > 0 {
		ending = "unexpected"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.endings[o.name] == nil {
		l.endings[o.name] = map[string]int{}
	}
	l.endings[o.name][ending]++
	if len(failures) > 0 {
		l.unexpected[o.name]++
		if len(l.samples) < shown {
			l.samples = append(l.samples, fmt.Sprintf("%s %s: %.800s", time.Now().Format("15:04:05.000"), o.name, strings.Join(failures, "; ")))
		}
	}
	return len(failures) == 0
}

// total counts operations, and those that were not as promised.
func (l *load) total() (all, bad int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.endings {
		for _, n := range o {
			all += n
		}
	}
	for _, n := range l.unexpected {
		bad += n
	}
	return all, bad
}

func (l *load) id() string { return fmt.Sprintf(`"soak-%d"`, l.serial.Add(1)) }

func (l *load) modern(key string) *harness.Client { return harness.NewModern(l.w.base+"/mcp", key) }

// ask sends a request and returns the response, which must bear the caller's id.
func (l *load) ask(t *scope, c *harness.Client, method string, params map[string]any) (*harness.Reply, harness.Response) {
	t.Helper()
	id := l.id()
	reply := c.CallID(t, id, method, params)
	if reply.Status != http.StatusOK {
		t.Fatalf("%s %v: status %d: %.400s", method, params["name"], reply.Status, reply.Body)
	}
	response := reply.Response(t)
	if string(response.ID) != id {
		t.Fatalf("%s: asked with id %s, answered with %s: %.400s", method, id, response.ID, reply.Body)
	}
	return reply, response
}

// ending says how a response ended in the words of the table of answers; what the table does not hold is fatal.
func ending(t *scope, what string, r harness.Response) string {
	t.Helper()
	if r.Error == nil {
		return ok
	}
	switch r.Error.Code {
	case 403:
		return denied
	case -32602:
		return unknown
	case -32603:
		var data struct{ Server, Reason string }
		if json.Unmarshal(r.Error.Data, &data) == nil && data.Server != "" && data.Reason != "" {
			return upstream
		}
	}
	t.Fatalf("%s: error %d %q %s", what, r.Error.Code, r.Error.Message, r.Error.Data)
	return ""
}

// tool calls a tool; the ending must be one of those given, and the text of a result the one given.
func (l *load) tool(t *scope, c *harness.Client, name string, arguments map[string]any, text string, allowed ...string) string {
	t.Helper()
	reply, response := l.ask(t, c, "tools/call", map[string]any{"name": name, "arguments": arguments})
	end := ending(t, name, response)
	if !slices.Contains(allowed, end) {
		t.Fatalf("%s (%s) ended as %s, want one of %v: %.400s", name, c.Revision, end, allowed, reply.Body)
	}
	if end == ok && text != "" && reply.Text(t) != text {
		t.Fatalf("%s returned %.100q, want %.100q", name, reply.Text(t), text)
	}
	return end
}

func (l *load) echo(t *scope, c *harness.Client, name string, allowed ...string) string {
	t.Helper()
	text := fmt.Sprintf("text-%d", l.serial.Add(1))
	return l.tool(t, c, name, map[string]any{"text": text}, text, allowed...)
}

func (l *load) call(t *scope) string {
	if rand.IntN(6) == 0 { // its rule is switched on and off: either is right
		return l.echo(t, l.modern(reader), "alpha_echo_b", ok, unknown)
	}
	return l.echo(t, l.modern([]string{reader, another, writer, guest}[rand.IntN(4)]), "alpha_echo", ok)
}

func (l *load) deny(t *scope) string {
	c := l.modern([]string{reader, writer}[rand.IntN(2)])
	reply, response := l.ask(t, c, "tools/call", map[string]any{"name": "alpha_echo", "arguments": map[string]any{"text": "forbidden"}})
	if response.Error == nil || response.Error.Code != 403 || response.Error.Message == "" {
		t.Fatalf("a refused call: %.400s", reply.Body)
	}
	return denied
}

// hide holds the answer for a hidden tool against that for one that does not exist, byte by byte.
func (l *load) hide(t *scope) string {
	c := l.modern([]string{reader, another, guest}[rand.IntN(3)])
	answer := func(name string) string {
		reply := c.CallID(t, `"hidden"`, "tools/call", map[string]any{"name": name, "arguments": map[string]any{"a": 1, "b": 2}})
		if r := reply.Response(t); reply.Status != http.StatusOK || r.Error == nil || r.Error.Code != -32602 {
			t.Fatalf("%s: status %d: %.400s", name, reply.Status, reply.Body)
		}
		return strings.ReplaceAll(string(reply.Body), name, "NAME")
	}
	if hidden, absent := answer("alpha_add"), answer("alpha_none"); hidden != absent {
		t.Fatalf("a hidden tool can be told from an absent one: %.300s, %.300s", hidden, absent)
	}
	return unknown
}

func (l *load) list(t *scope) string {
	method := []string{"tools/list", "tools/list", "tools/list", "prompts/list", "resources/list", "resources/templates/list"}[rand.IntN(6)]
	key := []string{reader, another, writer, guest}[rand.IntN(4)]
	c := l.modern(key)
	var s *harness.Client
	if rand.IntN(2) == 0 {
		if s = l.borrow(); s != nil {
			defer l.giveBack(s)
			c, key = s, s.Key
		}
	}
	reply, response := l.ask(t, c, method, map[string]any{})
	if response.Error != nil {
		t.Fatalf("%s: %.400s", method, reply.Body)
	}
	names := reply.Names(t)
	must, mustNot := expected(method, key, c.Modern())
	for _, n := range must {
		if !slices.Contains(names, n) {
			t.Errorf("%s of %s (%s) lacks %s", method, key, c.Revision, n)
		}
	}
	for _, n := range names {
		if slices.Contains(mustNot, n) || key == guest && !slices.Contains(must, n) || c.Modern() && (strings.HasPrefix(n, "gamma_") || strings.HasPrefix(n, "every_")) {
			t.Errorf("%s of %s (%s) shows %s", method, key, c.Revision, n)
		}
	}
	return ok
}

// expected are the names that a list must hold whatever is going on, and those that it must not.
func expected(method, key string, modern bool) (must, mustNot []string) {
	if key == guest {
		if method == "tools/list" {
			return []string{"alpha_echo"}, nil
		}
		return nil, nil
	}
	switch method {
	case "tools/list":
		must = []string{"alpha_echo", "alpha_slow", "alpha_fail", "beta_echo", "delta_echo", "time_get_current_time", "git_git_log"}
		if !modern {
			must = append(must, "gamma_echo", "gamma_slow", "every_echo")
		}
		if key == writer {
			return append(must, "alpha_add", "alpha_echo_b", "beta_add"), nil
		}
		return must, []string{"alpha_add", "beta_add", "gamma_add", "delta_add", "extra_add"}
	case "prompts/list":
		if key == writer {
			return []string{"alpha_greet", "beta_greet"}, nil
		}
		return nil, []string{"alpha_greet", "beta_greet", "gamma_greet", "delta_greet", "extra_greet"}
	case "resources/list":
		return []string{"test://text"}, nil
	}
	return []string{"test://item/{id}"}, nil
}

func (l *load) read(t *scope) string {
	var (
		want   string
		reply  *harness.Reply
		answer harness.Response
	)
	switch rand.IntN(4) {
	case 0:
		want = "text of test://text"
		reply, answer = l.ask(t, l.modern(reader), "resources/read", map[string]any{"uri": "test://text"})
	case 1:
		uri := fmt.Sprintf("test://item/%d", rand.IntN(1000))
		want = "text of " + uri
		reply, answer = l.ask(t, l.modern(another), "resources/read", map[string]any{"uri": uri})
	case 2:
		want = "greet all"
		reply, answer = l.ask(t, l.modern(writer), "prompts/get", map[string]any{"name": "alpha_greet", "arguments": map[string]any{"who": "all"}})
	default:
		want = "x-completed"
		reply, answer = l.ask(t, l.modern(writer), "completion/complete", map[string]any{
			"ref": map[string]any{"type": "ref/prompt", "name": "alpha_greet"}, "argument": map[string]any{"name": "who", "value": "x"},
		})
	}
	if answer.Error != nil || !strings.Contains(string(answer.Result), want) {
		t.Fatalf("want a result with %q: %.400s", want, reply.Body)
	}
	return ok
}

func (l *load) fail(t *scope) string {
	reply, response := l.ask(t, l.modern(reader), "tools/call", map[string]any{"name": "alpha_fail", "arguments": map[string]any{}})
	if response.Error != nil || !strings.Contains(string(response.Result), `"isError":true`) {
		t.Fatalf("a tool's own failure: %.400s", reply.Body)
	}
	return "tool error"
}

// shaky calls the server that goes down. Its catalog stays, so it is never unknown; an answer that has begun may be cut.
func (l *load) shaky(t *scope) string {
	c := l.modern(reader)
	if rand.IntN(2) == 0 {
		return l.echo(t, c, "beta_echo", ok, upstream)
	}
	id := l.id()
	reply := c.CallID(t, id, "tools/call", map[string]any{"name": "beta_slow", "arguments": map[string]any{"id": id, "millis": 50 + rand.IntN(400)}})
	if reply.Status != http.StatusOK {
		t.Fatalf("beta_slow: status %d: %.400s", reply.Status, reply.Body)
	}
	if len(reply.Messages()) == 0 || reply.Cut != nil {
		return cut
	}
	end := ending(t, "beta_slow", reply.Response(t))
	if end != ok && end != upstream {
		t.Fatalf("beta_slow ended as %s: %.400s", end, reply.Body)
	}
	return end
}

// blinking calls a tool that may be gone: the gateway says so, or, as long as it has not heard of it, the server, whose own status
// a modern client sees.
func (l *load) blinking(t *scope) string {
	id := l.id()
	reply := l.modern(reader).CallID(t, id, "tools/call", map[string]any{"name": "delta_blink", "arguments": map[string]any{}})
	response := reply.Response(t)
	end := ending(t, "delta_blink", response)
	if string(response.ID) != id || end == ok && reply.Status != http.StatusOK || end == unknown && reply.Status != http.StatusOK && reply.Status != http.StatusBadRequest {
		t.Fatalf("delta_blink: status %d: %.400s", reply.Status, reply.Body)
	}
	if end != ok && end != unknown {
		t.Fatalf("delta_blink ended as %s: %.400s", end, reply.Body)
	}
	return end
}

func (l *load) added(t *scope) string {
	return l.echo(t, l.modern(reader), "extra_echo", ok, unknown)
}

func (l *load) child(t *scope) string {
	if rand.IntN(2) == 0 {
		return l.tool(t, l.modern(reader), "time_get_current_time", map[string]any{"timezone": "UTC"}, "", ok, upstream)
	}
	return l.tool(t, l.modern(writer), "git_git_log", map[string]any{"repo_path": ".", "max_count": 3}, "", ok, upstream)
}

// open opens a legacy session.
func (l *load) open(t *scope) *harness.Client {
	revision := []string{harness.R20251125, harness.R20250618, harness.R20250326}[rand.IntN(3)]
	return harness.OpenLegacy(t, l.w.base+"/mcp", []string{reader, another, writer}[rand.IntN(3)], revision)
}

// session opens a legacy session and uses it; then it is deleted, left, or kept for others.
func (l *load) session(t *scope) string {
	c := l.open(t)
	used := false
	defer func() {
		if !used { // the use has failed
			l.leave(c)
		}
	}()
	for range 1 + rand.IntN(3) {
		l.legacy(t, c)
	}
	used = true
	switch rand.IntN(4) {
	case 0:
		l.leave(c)
		return "abandoned"
	case 1:
		if l.giveBack(c) {
			return "kept"
		}
	}
	l.end(t, c)
	return "deleted"
}

// end deletes a session.
func (l *load) end(t *scope, c *harness.Client) {
	t.Helper()
	l.mu.Lock()
	l.deleted = last(append(l.deleted, c))
	l.mu.Unlock()
	if r := c.Close(t); r.Status != http.StatusOK && r.Status != http.StatusNoContent && r.Status != http.StatusAccepted {
		t.Fatalf("DELETE of a session: status %d: %.300s", r.Status, r.Body)
	}
	gone(t, c, "deleted")
}

// last are as many sessions as the end of the run wants to know of.
func last(all []*harness.Client) []*harness.Client { return all[max(0, len(all)-remembered):] }

// gone checks that a session is no more.
func gone(t *scope, c *harness.Client, how string) {
	t.Helper()
	r := c.CallID(t, `"gone"`, "ping", nil)
	if r.Status != http.StatusNotFound || !strings.Contains(string(r.Body), "-32001") {
		t.Fatalf("a session that was %s: status %d: %.300s", how, r.Status, r.Body)
	}
}

// legacy does one simple thing in a session.
func (l *load) legacy(t *scope, c *harness.Client) string {
	switch rand.IntN(6) {
	case 0:
		if reply, response := l.ask(t, c, "ping", nil); response.Error != nil {
			t.Fatalf("ping: %.300s", reply.Body)
		}
		return ok
	case 1:
		return l.echo(t, c, "alpha_echo", ok)
	case 2:
		text := fmt.Sprintf("text-%d", l.serial.Add(1))
		return l.tool(t, c, "every_echo", map[string]any{"message": text}, "Echo: "+text, ok)
	case 3:
		return l.echo(t, c, "beta_echo", ok, upstream)
	case 4:
		return l.tool(t, c, "time_get_current_time", map[string]any{"timezone": "UTC"}, "", ok, upstream)
	}
	return l.echo(t, c, "gamma_echo", ok)
}

// borrow takes a living session out of the pool, so that no two operations use it at once; nil where there is none. One that may
// expire before it is used, on a machine that is too busy, is left.
func (l *load) borrow() *harness.Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pool) > 0 {
		c := l.pool[0]
		l.pool = l.pool[1:]
		if time.Since(c.since) < l.w.idle/2 {
			return c.Client
		}
		l.abandoned = last(append(l.abandoned, c.Client))
	}
	return nil
}

// giveBack puts a session into the pool, if there is room.
func (l *load) giveBack(c *harness.Client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pool) >= pooled {
		return false
	}
	l.pool = append(l.pool, idleSession{c, time.Now()})
	return true
}

// leave notes a session that nobody comes back to.
func (l *load) leave(c *harness.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.abandoned = last(append(l.abandoned, c))
}

// living runs f with a session of the pool, or with a new one, which it leaves in the pool.
func (l *load) living(t *scope, f func(c *harness.Client) string) string {
	c := l.borrow()
	if c == nil {
		c = l.open(t)
	}
	kept := false
	defer func() {
		if !kept { // f has failed: nobody will use it again
			l.leave(c)
		}
	}()
	end := f(c)
	if kept = l.giveBack(c); !kept {
		kept = true
		l.end(t, c)
	}
	return end
}

func (l *load) reuse(t *scope) string {
	return l.living(t, func(c *harness.Client) string { return l.legacy(t, c) })
}

// foreign uses a session with another's key, and on another endpoint.
func (l *load) foreign(t *scope) string {
	return l.living(t, func(c *harness.Client) string {
		other := *c
		if rand.IntN(2) == 0 {
			other.Key = guest
		} else {
			other.URL += "/alpha"
		}
		gone(t, &other, "foreign")
		l.legacy(t, c) // it is none the worse for it
		return "refused"
	})
}

// slowParams are the arguments of a tool that takes its time, with a progress token.
func slowParams(c *harness.Client, tool, id string, millis int) map[string]any {
	meta := map[string]any{"progressToken": id}
	if c.Modern() {
		meta["io.modelcontextprotocol/protocolVersion"] = c.Revision
		meta["io.modelcontextprotocol/clientCapabilities"] = map[string]any{}
		meta["io.modelcontextprotocol/clientInfo"] = map[string]any{"name": "soak", "version": "1"}
	}
	return map[string]any{"name": tool, "arguments": map[string]any{"id": id, "millis": millis, "progress": true}, "_meta": meta}
}

func (l *load) progress(t *scope) string {
	check := func(c *harness.Client, tool string) string {
		id := strings.Trim(l.id(), `"`)
		s := c.Stream(t, `"`+id+`"`, "tools/call", slowParams(c, tool, id, 20+rand.IntN(200)))
		if note := s.Until(t, "notifications/progress", 10*time.Second); !strings.Contains(string(note), `"progressToken":"`+id+`"`) {
			t.Fatalf("%s (%s): progress of another call: %.300s", tool, c.Revision, note)
		}
		if answer := s.Until(t, "", 10*time.Second); !strings.Contains(string(answer), `"text":"`+id+`"`) || !strings.Contains(string(answer), `"id":"`+id+`"`) {
			t.Fatalf("%s (%s): %.300s", tool, c.Revision, answer)
		}
		return ok
	}
	if rand.IntN(2) == 0 {
		return check(l.modern(reader), "alpha_slow")
	}
	return l.living(t, func(c *harness.Client) string { return check(c, []string{"alpha_slow", "gamma_slow"}[rand.IntN(2)]) })
}

// get opens a session's own stream, sees it live, and drops it.
func (l *load) get(t *scope) string {
	return l.living(t, func(c *harness.Client) string {
		s := c.Listen(t)
		if rand.IntN(3) == 0 {
			s.Comment(t, 5*time.Second)
		} else {
			time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		}
		s.Close()
		return "dropped"
	})
}

func (l *load) listen(t *scope) string {
	c := l.modern(reader)
	s := c.Stream(t, l.id(), "subscriptions/listen", map[string]any{"notifications": map[string]any{"toolsListChanged": true}})
	s.Next(t, 5*time.Second) // the acknowledgement
	time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
	s.Close()
	return "dropped"
}

// vanish goes away in the middle of a call; the server has to hear of it.
func (l *load) vanish(t *scope) string {
	id := strings.Trim(l.id(), `"`)
	do := func(c *harness.Client, tool string) string {
		ctx, leave := context.WithTimeout(context.Background(), time.Duration(30+rand.IntN(170))*time.Millisecond)
		defer leave()
		reply, err := c.TryCall(ctx, `"`+id+`"`, "tools/call", slowParams(c, tool, id, 8000))
		if err == nil && reply.Cut == nil {
			t.Fatalf("%s (%s) was answered before its time: %.300s", tool, c.Revision, reply.Body)
		}
		return "left"
	}
	if rand.IntN(2) == 0 {
		// Only here is the end of the connection the end of the call; a legacy client has notifications/cancelled.
		do(l.modern(reader), "alpha_slow")
		return "left"
	}
	return l.living(t, func(c *harness.Client) string { return do(c, "gamma_slow") })
}

// cancel cancels a call, by the notification in a session and by leaving otherwise, and waits until the server has heard of it.
func (l *load) cancel(t *scope) string {
	id := strings.Trim(l.id(), `"`)
	heard := func(how string) string {
		harness.Eventually(t, 6*time.Second, "the server hears that "+how, func() bool {
			time.Sleep(20 * time.Millisecond)
			return l.w.told(id)
		})
		return "cancelled"
	}
	if rand.IntN(2) == 0 {
		c := l.modern(reader)
		s := c.Stream(t, `"`+id+`"`, "tools/call", slowParams(c, "alpha_slow", id, 9000))
		s.Until(t, "notifications/progress", 10*time.Second) // now the call is at the server
		s.Close()
		return heard("a modern client has closed its stream")
	}
	return l.living(t, func(c *harness.Client) string {
		s := c.Stream(t, `"`+id+`"`, "tools/call", slowParams(c, "gamma_slow", id, 9000))
		s.Until(t, "notifications/progress", 10*time.Second)
		if r := c.Notify(t, "notifications/cancelled", map[string]any{"requestId": id}); r.Status != http.StatusAccepted {
			t.Fatalf("notifications/cancelled: status %d: %.300s", r.Status, r.Body)
		}
		end := heard("a legacy client (" + c.Revision + ") has cancelled")
		s.Close()
		return end
	})
}

func (l *load) big(t *scope) string {
	text := strings.Repeat("0123456789abcdef", bigText/16)
	do := func(c *harness.Client, tool string) string {
		return l.tool(t, c, tool, map[string]any{"text": text}, text, ok)
	}
	if rand.IntN(2) == 0 {
		return do(l.modern(reader), "alpha_echo")
	}
	return l.living(t, func(c *harness.Client) string { return do(c, "gamma_echo") })
}

// malformed sends what no good client sends.
func (l *load) malformed(t *scope) string {
	c := l.modern(reader)
	params := map[string]any{"name": "alpha_echo", "arguments": map[string]any{"text": "x"}}
	good, lines := string(c.Body(`"bad"`, "tools/call", params)), c.Lines("tools/call", params)
	with := func(line string) []string { return append(slices.Clone(lines), line) }
	instead := func(name, line string) []string {
		return append(slices.DeleteFunc(slices.Clone(lines), func(s string) bool { return strings.HasPrefix(strings.ToLower(s), strings.ToLower(name)+":") }), line)
	}
	bad := []struct {
		what, method, path, key, body string
		headers                       []string
		status, code                  int
	}{
		{"not JSON", "POST", "/mcp", reader, good[:len(good)-2], lines, 400, -32700},
		{"not a request", "POST", "/mcp", reader, `{"jsonrpc":"2.0"}`, lines, 400, -32600},
		{"method and result", "POST", "/mcp", reader, strings.Replace(good, `"method"`, `"result":{},"method"`, 1), lines, 400, -32600},
		{"a key twice", "POST", "/mcp", reader, strings.Replace(good, `"name":"alpha_echo"`, `"name":"alpha_echo","name":"alpha_add"`, 1), lines, 400, 0},
		{"no id", "POST", "/mcp", reader, strings.Replace(good, `"id":"bad",`, "", 1), lines, 400, -32600},
		{"header against body", "POST", "/mcp", reader, good, instead("mcp-name", "Mcp-Name: alpha_fail"), 400, -32020},
		{"header twice", "POST", "/mcp", reader, good, with("Mcp-Name: alpha_echo"), 400, -32020},
		{"no key", "POST", "/mcp", "", good, lines, 401, 401},
		{"wrong key", "POST", "/mcp", "nobody", good, lines, 401, 401},
		{"two keys", "POST", "/mcp", reader, good, with("X-Api-Key: " + reader), 400, 400},
		{"type", "POST", "/mcp", reader, good, with("Content-Type: text/plain"), 415, -32600},
		{"accept", "POST", "/mcp", reader, good, with("Accept: application/json"), 406, -32600},
		{"encoding", "POST", "/mcp", reader, good, with("Content-Encoding: gzip"), 415, -32600},
		{"origin", "POST", "/mcp", reader, good, with("Origin: http://evil.example"), 403, 403},
		{"path", "POST", "/nowhere", reader, good, lines, 404, 0},
		{"query", "POST", "/mcp?a=1", reader, good, lines, 400, 0},
		{"HTTP method", "PUT", "/mcp", reader, good, lines, 405, 0},
		{"size", "POST", "/mcp", reader, good + strings.Repeat(" ", 4<<20), lines, 413, -32600},
		{"unknown method", "POST", "/mcp", reader, string(c.Body(`"bad"`, "tools/none", nil)), c.Lines("tools/none", nil), 404, -32601},
		{"number", "POST", "/mcp", reader, strings.Replace(good, `"text":"x"`, `"text":1e400`, 1), lines, 400, 0},
	}
	b := bad[rand.IntN(len(bad))]
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	reply, err := harness.Try(ctx, b.method, l.w.base+b.path, b.key, []byte(b.body), b.headers...)
	if err != nil {
		t.Fatalf("%s: %v", b.what, err)
	}
	var m struct {
		JSONRPC string
		Error   *harness.RPCError
	}
	if err := json.Unmarshal(reply.Body, &m); err != nil || m.Error == nil || m.JSONRPC != "2.0" || reply.Status != b.status || b.code != 0 && m.Error.Code != b.code {
		t.Fatalf("%s: want %d %d, got status %d: %.300s", b.what, b.status, b.code, reply.Status, reply.Body)
	}
	return fmt.Sprint(b.status)
}

// working checks that each server serves as if nothing had ever happened.
func (l *load) working(t *scope) {
	c := l.modern(reader)
	for _, server := range []string{"alpha", "beta", "delta"} {
		l.echo(t, c, server+"_echo", ok)
	}
	l.echo(t, c, "alpha_echo_b", ok)
	l.tool(t, c, "delta_blink", map[string]any{}, "", unknown)
	l.echo(t, c, "extra_echo", unknown)
	l.tool(t, c, "time_get_current_time", map[string]any{"timezone": "UTC"}, "", ok)
	l.tool(t, c, "git_git_log", map[string]any{"repo_path": ".", "max_count": 3}, "", ok)
	s := harness.OpenLegacy(t, l.w.base+"/mcp", reader, harness.R20251125)
	t.Cleanup(func() { l.end(t, s) })
	l.echo(t, s, "gamma_echo", ok)
	l.tool(t, s, "every_echo", map[string]any{"message": "x"}, "Echo: x", ok)
}

// eventually repeats a check until nothing fails, and returns what failed last.
func eventually(ctx context.Context, patience time.Duration, check func(t *scope)) error {
	deadline := time.Now().Add(patience)
	for {
		failures := within(check)
		if len(failures) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New(strings.Join(failures, "; "))
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return os.ErrDeadlineExceeded
		}
	}
}
