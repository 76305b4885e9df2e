package stdio

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/sse"
)

const (
	uploadTime = 30 * time.Second // for a request's body
	writeTime  = 30 * time.Second // for one write to a caller
	aliveEvery = 25 * time.Second // comments on a stream that is silent
)

// ServeHTTP serves the one MCP endpoint, whatever the path.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.wg.Add(1)
	}
	s.mu.Unlock()
	if closed {
		refuse(w, nil, refused(s.o.Name, reasonDown, errors.New("shutting down")), false)
		return
	}
	defer s.wg.Done()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a request panicked", "panic", p, "stack", string(debug.Stack()))
			refuse(w, nil, fault.New(fault.Internal, "the server could not be asked"), false) // on a stream that has begun, a broken event
		}
	}()
	if r.Method == http.MethodPost {
		s.post(w, r)
		return
	}
	f, fail := s.current(r.Context())
	switch {
	case fail != nil:
		refuse(w, nil, fail, false)
	case f.modern():
		refuse(w, nil, fault.WithAllow("POST"), false)
	case r.Method == http.MethodGet:
		s.get(w, r)
	case r.Method == http.MethodDelete:
		s.delete(w, r)
	default:
		refuse(w, nil, fault.WithAllow("POST, GET, DELETE"), true)
	}
}

// post reads one message and hands it to the era that the child speaks.
func (s *Server) post(w http.ResponseWriter, r *http.Request) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		refuse(w, nil, fault.New(fault.MediaType, "content-type must be application/json"), false)
		return
	}
	size := int64(s.o.MaxRequest)
	if r.ContentLength > size {
		refuse(w, nil, fault.New(fault.TooLarge, "the message exceeds %d bytes", size), false)
		return
	}
	if r.ContentLength >= 0 {
		size = r.ContentLength
	}
	wait, cancel := context.WithTimeout(r.Context(), admission)
	err := s.bodies.Acquire(wait, size)
	cancel()
	if err != nil {
		refuse(w, nil, refused(s.o.Name, reasonOverload, errors.New("too many bytes wait for the child")), false)
		return
	}
	free := sync.OnceFunc(func() { s.bodies.Release(size) })
	defer free()

	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(uploadTime))
	body, err := readBody(w, r, int64(s.o.MaxRequest))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		refuse(w, nil, fault.New(fault.TooLarge, "the message exceeds %d bytes", s.o.MaxRequest), false)
		return
	case err != nil:
		refuse(w, nil, fault.New(fault.Timeout, "the message did not arrive whole").Wrap(err), false)
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // the caller's leaving is still noticed

	m, err := jsonrpc.Read(body, jsonrpc.Limits{})
	if err != nil {
		var e *jsonrpc.Error
		kind, id := fault.Invalid, []byte(nil)
		if errors.As(err, &e) {
			id = e.ID
			if e.Kind == jsonrpc.Malformed {
				kind = fault.Parse
			}
		}
		refuse(w, id, fault.New(kind, "%s", err), false)
		return
	}
	f, fail := s.current(r.Context())
	switch {
	case fail != nil:
		refuse(w, m.ID, fail, false)
	case f.modern():
		s.modern(w, r, f, m, free)
	default:
		s.legacy(w, r, f, m, free)
	}
}

// readBody reads a body of known length into one piece of that size.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	limited := http.MaxBytesReader(w, r.Body, most)
	if r.ContentLength < 0 {
		return io.ReadAll(limited)
	}
	body := make([]byte, r.ContentLength)
	_, err := io.ReadFull(limited, body)
	return body, err
}

// exchange waits for the end of a call that was sent and writes what comes: one JSON object, or a stream from the first notification
// on. left says what a caller's leaving means; it returns true where the call goes on without him.
func (s *Server) exchange(w http.ResponseWriter, r *http.Request, l *link, c *call, legacy bool, left func() bool) {
	out := &answer{w: w, legacy: legacy}
	silence := time.NewTimer(s.o.CallTimeout)
	defer silence.Stop()
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	leaving := r.Context().Done()
	defer l.release(c)
	for {
		select {
		case message := <-c.events:
			out.event(message)
			silence.Reset(s.o.CallTimeout)
		case <-c.done:
			for more := true; more; {
				select {
				case message := <-c.events: // what came before the answer goes before it
					out.event(message)
				default:
					more = false
				}
			}
			out.end(c)
			return
		case <-leaving:
			if !left() {
				<-c.done // over by now, or about to be: release must see how it ended
				return
			}
			leaving, out = nil, &answer{w: discard{}, legacy: legacy}
		case <-silence.C:
			if !c.listen { // a subscription may be silent for as long as it likes
				l.abandon(c, "timed out", unserved(s.o.Name, reasonTimeout, errors.New("no byte in time")))
			}
		case <-alive.C:
			out.comment()
		}
	}
}

// answer writes the response of one call.
type answer struct {
	w         http.ResponseWriter
	legacy    bool
	streaming bool
	buf       []byte
}

func (a *answer) event(message []byte) {
	a.stream()
	a.buf = sse.Append(a.buf[:0], sse.Event{Name: "message", Data: message})
	a.flush()
}

func (a *answer) comment() {
	if a.streaming {
		a.buf = sse.Append(a.buf[:0], sse.Event{Comment: true})
		a.flush()
	}
}

// stream begins a stream, once.
func (a *answer) stream() {
	if a.streaming {
		return
	}
	a.streaming = true
	h := a.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	a.w.WriteHeader(http.StatusOK)
}

// flush sends buf; an error shows as the caller's leaving.
func (a *answer) flush() {
	c := http.NewResponseController(a.w)
	_ = c.SetWriteDeadline(time.Now().Add(writeTime))
	_, _ = a.w.Write(a.buf)
	_ = c.Flush()
}

// end writes the call's answer or fault and ends the response.
func (a *answer) end(c *call) {
	body, status := []byte(nil), http.StatusOK
	if c.fail != nil {
		body, status = c.fail.Reply(c.id), c.fail.Kind.Status(a.legacy)
		if c.probe { // an outage must not pass for an answer about the era
			status = http.StatusServiceUnavailable
		}
	} else {
		body = c.restored()
		if e := c.answer.Error; e.Exists() && !a.legacy {
			code, _ := errorParts(e.Raw)
			status = modernStatus(code)
		}
	}
	if a.streaming {
		a.event(body)
		return
	}
	writeJSON(a.w, status, body)
}

// restored is the child's answer under the caller's own id.
func (c *call) restored() []byte {
	m := c.answer
	edits := []jsonrpc.Edit{{Pos: idPos(m), Len: len(m.ID), Text: c.id}}
	if sub, ok := subscriptionOf(m); c.listen && ok {
		e := jsonrpc.Edit{Pos: sub.Pos, Len: len(sub.Raw), Text: c.id}
		if e.Pos < edits[0].Pos {
			edits = []jsonrpc.Edit{e, edits[0]}
		} else {
			edits = append(edits, e)
		}
	}
	return jsonrpc.Splice(m.Body, edits...)
}

// subscriptionOf finds the subscription id in a result.
func subscriptionOf(m *jsonrpc.Message) (jsonrpc.Value, bool) {
	result, err := jsonrpc.Parse(m.Result.Raw, jsonrpc.Limits{})
	if err != nil {
		return jsonrpc.Value{}, false
	}
	meta := result.Get("_meta")
	o, err := jsonrpc.Parse(meta.Raw, jsonrpc.Limits{})
	if err != nil {
		return jsonrpc.Value{}, false
	}
	v := o.Get(mcp.MetaSubscription)
	v.Pos += meta.Pos + m.Result.Pos
	return v, v.Exists()
}

// modernStatus is the HTTP status that goes with an error of a modern server (2026-07-28, "Streamable HTTP", status codes).
func modernStatus(code int) int {
	switch code {
	case mcp.CodeMethodNotFound:
		return http.StatusNotFound
	case mcp.CodeHeaderMismatch, mcp.CodeCapability, mcp.CodeVersion:
		return http.StatusBadRequest
	}
	return http.StatusOK
}

// refuse answers with a fault.
func refuse(w http.ResponseWriter, id []byte, f *fault.Error, legacy bool) {
	for k, v := range f.Header {
		w.Header().Set(k, v)
	}
	writeJSON(w, f.Kind.Status(legacy), f.Reply(id))
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// discard takes the place of a caller who left.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// errorParts reads code and data of a JSON-RPC error object.
func errorParts(raw []byte) (code int, data []byte) {
	o, err := jsonrpc.Parse(raw, jsonrpc.Limits{})
	if err != nil {
		return 0, nil
	}
	code, _ = strconv.Atoi(string(o.Get("code").Raw))
	return code, o.Get("data").Raw
}

// versions reads a list of versions out of a JSON object; what is no such list is empty.
func versions(object []byte, name string) []string {
	o, err := jsonrpc.Parse(object, jsonrpc.Limits{})
	if err != nil {
		return nil
	}
	var list []string
	if json.Unmarshal(o.Get(name).Raw, &list) != nil {
		return nil
	}
	return list
}

// single is the value of a header that must not occur twice.
func single(h http.Header, name string) (string, bool) {
	v := h.Values(name)
	if len(v) != 1 {
		return "", false
	}
	return strings.Trim(v[0], " \t"), true
}
