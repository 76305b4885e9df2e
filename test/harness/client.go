package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Revisions that a test client speaks.
const (
	R20260728 = "2026-07-28"
	R20251125 = "2025-11-25"
	R20250618 = "2025-06-18"
	R20250326 = "2025-03-26"
)

const (
	metaVersion      = "io.modelcontextprotocol/protocolVersion"
	metaCapabilities = "io.modelcontextprotocol/clientCapabilities"
	metaClient       = "io.modelcontextprotocol/clientInfo"
)

// callTimeout bounds one exchange: a test that hangs says where.
const callTimeout = 60 * time.Second

// httpClient keeps connections alive, follows no redirect and adds nothing: Go's own Accept-Encoding
// would ask for gzip.
var httpClient = &http.Client{
	Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 128},
	CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	},
}

// Reply is one whole HTTP answer.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
	Events []Event // of an event stream, in order
	Cut    error   // why the body ended early; nil where it ended well
}

// Event is one event of a stream. A comment line has only Comment.
type Event struct {
	ID, Name, Data string
	Retry          string
	Comment        string
}

// Response is a JSON-RPC response. Exactly one of Result and Error is set in a good one.
type Response struct {
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *RPCError       `json:"error"`
}

// RPCError is the error of a JSON-RPC response.
type RPCError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// Messages returns the JSON-RPC messages of the answer: the body, or the data of each event.
func (r *Reply) Messages() []json.RawMessage {
	var out []json.RawMessage
	for _, e := range r.Events {
		if e.Data != "" {
			out = append(out, json.RawMessage(e.Data))
		}
	}
	if r.Events == nil && len(r.Body) > 0 {
		out = append(out, r.Body)
	}
	return out
}

// Response returns the one JSON-RPC response of the answer; none, two, or one that is both result and
// error, or neither, is fatal.
func (r *Reply) Response(t testing.TB) Response {
	t.Helper()
	var found []Response
	for _, m := range r.Messages() {
		var one struct {
			Response
			JSONRPC string  `json:"jsonrpc"`
			Method  *string `json:"method"`
		}
		if err := json.Unmarshal(m, &one); err != nil {
			t.Fatalf("status %d, not JSON-RPC (%v): %.500q", r.Status, err, m)
		}
		if one.JSONRPC != "2.0" {
			t.Fatalf("status %d, jsonrpc is %q: %.500s", r.Status, one.JSONRPC, m)
		}
		if one.Method == nil {
			found = append(found, one.Response)
		}
	}
	if len(found) != 1 || (found[0].Result == nil) == (found[0].Error == nil) {
		t.Fatalf("status %d, want one response with a result or an error, got %d (cut: %v): %.1000s", r.Status, len(found), r.Cut, r.Body)
	}
	return found[0]
}

// Result decodes the result into v (nil: only checks that there is one); an error is fatal.
func (r *Reply) Result(t testing.TB, v any) json.RawMessage {
	t.Helper()
	response := r.Response(t)
	if response.Error != nil {
		t.Fatalf("status %d, want a result, got the error %d %q %s", r.Status, response.Error.Code, response.Error.Message, response.Error.Data)
	}
	if v != nil {
		if err := json.Unmarshal(response.Result, v); err != nil {
			t.Fatalf("decoding the result %.500s: %v", response.Result, err)
		}
	}
	return response.Result
}

// Failure returns the error; a result is fatal.
func (r *Reply) Failure(t testing.TB) RPCError {
	t.Helper()
	response := r.Response(t)
	if response.Error == nil {
		t.Fatalf("status %d, want an error, got the result %.500s", r.Status, response.Result)
	}
	return *response.Error
}

// Text returns the text of a tool's result, its blocks joined.
func (r *Reply) Text(t testing.TB) string {
	t.Helper()
	var result struct {
		Content []struct {
			Text string `json:"text"`
		} `json:"content"`
	}
	r.Result(t, &result)
	var b strings.Builder
	for _, c := range result.Content {
		b.WriteString(c.Text)
	}
	return b.String()
}

// Names returns the names in a list's result, in order: of tools and prompts the name, of resources the
// uri, of templates the uriTemplate.
func (r *Reply) Names(t testing.TB) []string {
	t.Helper()
	var result map[string]json.RawMessage
	r.Result(t, &result)
	names := []string{}
	for list, key := range map[string]string{"tools": "name", "prompts": "name", "resources": "uri", "resourceTemplates": "uriTemplate"} {
		if result[list] == nil {
			continue
		}
		var items []map[string]any
		if err := json.Unmarshal(result[list], &items); err != nil {
			t.Fatalf("decoding %s: %v", list, err)
		}
		for _, item := range items {
			names = append(names, fmt.Sprint(item[key]))
		}
	}
	return names
}

// Do sends one HTTP request and reads the whole answer. Headers are "Name: value" lines, sent in
// order, twice where given twice; Host sets the authority. A key, if not empty, is sent as a bearer
// token. Content-Type and Accept are what a good client sends unless headers name them: "Accept:" with
// nothing behind it leaves it out. A transport error is fatal.
func Do(t testing.TB, method, url, key string, body []byte, headers ...string) *Reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	response, err := send(ctx, method, url, key, body, headers)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return read(response)
}

// Try is Do for tests in which the connection may break: the error is returned. It may be called from
// any goroutine.
func Try(ctx context.Context, method, url, key string, body []byte, headers ...string) (*Reply, error) {
	response, err := send(ctx, method, url, key, body, headers)
	if err != nil {
		return nil, err
	}
	return read(response), nil
}

// Post is Do with POST.
func Post(t testing.TB, url, key, body string, headers ...string) *Reply {
	t.Helper()
	return Do(t, http.MethodPost, url, key, []byte(body), headers...)
}

func send(ctx context.Context, method, url, key string, body []byte, headers []string) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return nil, err
	}
	r.Header["Accept"] = []string{"application/json, text/event-stream"}
	if body != nil {
		r.Header["Content-Type"] = []string{"application/json"}
	}
	if key != "" {
		r.Header["Authorization"] = []string{"Bearer " + key}
	}
	given := map[string]bool{}
	for _, line := range headers {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("header %q has no colon", line)
		}
		name, value = http.CanonicalHeaderKey(name), strings.TrimPrefix(value, " ")
		if name == "Host" {
			r.Host = value
			continue
		}
		if !given[name] { // a test's own line replaces the good client's
			given[name] = true
			delete(r.Header, name)
		}
		if value != "" || (name != "Accept" && name != "Content-Type") {
			r.Header[name] = append(r.Header[name], value)
		}
	}
	return httpClient.Do(r)
}

func read(response *http.Response) *Reply {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	reply := &Reply{Status: response.StatusCode, Header: response.Header, Body: body, Cut: err}
	if isStream(response.Header) {
		reply.Events = []Event{}
		for reader := newEvents(bytes.NewReader(body)); ; {
			e, err := reader.next()
			if err != nil {
				break
			}
			reply.Events = append(reply.Events, e)
		}
	}
	return reply
}

func isStream(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), "text/event-stream")
}

// Client is one MCP client: a revision, and for legacy ones a session. It may be used from several
// goroutines when each brings its own test helper calls to an end on the test's goroutine; ids are then
// the caller's to choose (CallID).
type Client struct {
	URL, Key     string
	Revision     string
	Session      string         // of a legacy client, once opened
	Capabilities map[string]any // what the client declares; {} where nil
	Headers      []string       // sent with every request
	Welcome      *Reply         // the answer to initialize

	id int
}

// NewModern returns a client of 2026-07-28.
func NewModern(url, key string) *Client { return &Client{URL: url, Key: key, Revision: R20260728} }

// OpenLegacy opens a session of an earlier revision: initialize, then notifications/initialized.
func OpenLegacy(t testing.TB, url, key, revision string) *Client {
	t.Helper()
	c := &Client{URL: url, Key: key, Revision: revision}
	c.Initialize(t)
	return c
}

// Initialize opens the client's session, a second one where it has one already.
func (c *Client) Initialize(t testing.TB) {
	t.Helper()
	c.Session = ""
	c.Welcome = Post(t, c.URL, c.Key, string(c.Body("0", "initialize", map[string]any{
		"protocolVersion": c.Revision,
		"capabilities":    c.capabilities(),
		"clientInfo":      map[string]any{"name": "harness", "version": "1"},
	})), c.Headers...)
	var result struct {
		ProtocolVersion string `json:"protocolVersion"`
	}
	c.Welcome.Result(t, &result)
	if result.ProtocolVersion != c.Revision {
		t.Fatalf("asked for revision %s, got %q", c.Revision, result.ProtocolVersion)
	}
	c.Session = c.Welcome.Header.Get("Mcp-Session-Id")
	if reply := c.Notify(t, "notifications/initialized", nil); reply.Status != http.StatusAccepted {
		t.Fatalf("notifications/initialized: status %d: %s", reply.Status, reply.Body)
	}
}

// Modern tells whether the client's revision is without sessions.
func (c *Client) Modern() bool { return c.Revision >= R20260728 }

func (c *Client) capabilities() map[string]any {
	if c.Capabilities == nil {
		return map[string]any{}
	}
	return c.Capabilities
}

// Body returns the message of a request as the client would send it. The id is JSON text, "" for a
// notification. A modern message gets its _meta unless params brings one.
func (c *Client) Body(id, method string, params map[string]any) []byte {
	message := map[string]any{"jsonrpc": "2.0", "method": method}
	if id != "" {
		message["id"] = json.RawMessage(id)
	}
	if c.Modern() {
		with := map[string]any{"_meta": map[string]any{
			metaVersion:      c.Revision,
			metaCapabilities: c.capabilities(),
			metaClient:       map[string]any{"name": "harness", "version": "1"},
		}}
		for k, v := range params {
			with[k] = v
		}
		params = with
	}
	if params != nil {
		message["params"] = params
	}
	body, err := json.Marshal(message)
	if err != nil {
		panic(fmt.Sprintf("params that are not JSON: %v", err)) // a fault of the test itself
	}
	return body
}

// Lines returns the header lines that go with a message of the client's revision: of a modern one those
// that mirror the body, of a legacy one the version and the session.
func (c *Client) Lines(method string, params map[string]any) []string {
	lines := []string{"MCP-Protocol-Version: " + c.Revision}
	if !c.Modern() {
		if c.Session != "" {
			lines = append(lines, "Mcp-Session-Id: "+c.Session)
		}
		return append(lines, c.Headers...)
	}
	lines = append(lines, "Mcp-Method: "+method)
	var name any
	switch method {
	case "tools/call", "prompts/get":
		name = params["name"]
	case "resources/read":
		name = params["uri"]
	}
	if s, ok := name.(string); ok {
		lines = append(lines, "Mcp-Name: "+s)
	}
	return append(lines, c.Headers...)
}

// Call sends a request under the client's next id and reads the whole answer. Extra header lines
// replace the client's own of the same name.
func (c *Client) Call(t testing.TB, method string, params map[string]any, headers ...string) *Reply {
	t.Helper()
	c.id++
	return c.CallID(t, fmt.Sprint(c.id), method, params, headers...)
}

// CallID is Call under an id of the caller's, given as JSON text.
func (c *Client) CallID(t testing.TB, id, method string, params map[string]any, headers ...string) *Reply {
	t.Helper()
	return Do(t, http.MethodPost, c.URL, c.Key, c.Body(id, method, params), override(c.Lines(method, params), headers)...)
}

// TryCall is CallID for tests in which the connection may break. It may be called from any goroutine.
func (c *Client) TryCall(ctx context.Context, id, method string, params map[string]any, headers ...string) (*Reply, error) {
	return Try(ctx, http.MethodPost, c.URL, c.Key, c.Body(id, method, params), override(c.Lines(method, params), headers)...)
}

// Tool calls a tool.
func (c *Client) Tool(t testing.TB, name string, arguments map[string]any) *Reply {
	t.Helper()
	if arguments == nil {
		arguments = map[string]any{}
	}
	return c.Call(t, "tools/call", map[string]any{"name": name, "arguments": arguments})
}

// List returns the names of a whole list, all its pages.
func (c *Client) List(t testing.TB, method string) []string {
	t.Helper()
	names, params := []string{}, map[string]any{}
	for range 10_000 {
		reply := c.Call(t, method, params)
		names = append(names, reply.Names(t)...)
		var page struct {
			NextCursor *string `json:"nextCursor"`
		}
		reply.Result(t, &page)
		if page.NextCursor == nil {
			return names
		}
		params = map[string]any{"cursor": *page.NextCursor}
	}
	t.Fatalf("%s has no last page", method)
	return nil
}

// Notify sends a notification.
func (c *Client) Notify(t testing.TB, method string, params map[string]any, headers ...string) *Reply {
	t.Helper()
	return Do(t, http.MethodPost, c.URL, c.Key, c.Body("", method, params), override(c.Lines(method, params), headers)...)
}

// Respond answers a server's request on the client's session; the id is JSON text.
func (c *Client) Respond(t testing.TB, id string, result any) *Reply {
	t.Helper()
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": json.RawMessage(id), "result": result})
	if err != nil {
		t.Fatalf("encoding the answer: %v", err)
	}
	return Do(t, http.MethodPost, c.URL, c.Key, body, c.Lines("", nil)...)
}

// Close deletes a legacy client's session.
func (c *Client) Close(t testing.TB) *Reply {
	t.Helper()
	return Do(t, http.MethodDelete, c.URL, c.Key, nil, c.Lines("", nil)...)
}

// override drops from lines what over names too, then appends over.
func override(lines, over []string) []string {
	named := map[string]bool{}
	for _, line := range over {
		name, _, _ := strings.Cut(line, ":")
		named[strings.ToLower(name)] = true
	}
	var out []string
	for _, line := range lines {
		if name, _, _ := strings.Cut(line, ":"); !named[strings.ToLower(name)] {
			out = append(out, line)
		}
	}
	return append(out, over...)
}

// Stream is an event stream that is being read while it is open.
type Stream struct {
	Status int
	Header http.Header

	cancel context.CancelFunc
	body   io.Closer
	events chan Event
	err    error // why it ended; read after events is closed
}

// Listen opens the event stream of a legacy session (GET).
func (c *Client) Listen(t testing.TB, headers ...string) *Stream {
	t.Helper()
	return open(t, http.MethodGet, c.URL, c.Key, nil, override(c.Lines("", nil), headers))
}

// Stream sends a request and returns its answer as a stream, to be read event by event.
func (c *Client) Stream(t testing.TB, id, method string, params map[string]any, headers ...string) *Stream {
	t.Helper()
	return open(t, http.MethodPost, c.URL, c.Key, c.Body(id, method, params), override(c.Lines(method, params), headers))
}

// open returns once the headers are there. The stream is closed when the test ends.
func open(t testing.TB, method, url, key string, body []byte, headers []string) *Stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	timer := time.AfterFunc(callTimeout, cancel)
	response, err := send(ctx, method, url, key, body, headers)
	timer.Stop()
	if err != nil {
		cancel()
		t.Fatalf("%s %s: %v", method, url, err)
	}
	s := &Stream{Status: response.StatusCode, Header: response.Header, cancel: cancel, body: response.Body, events: make(chan Event, 1024)}
	if !isStream(response.Header) {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 2000))
		cancel()
		t.Fatalf("%s %s: want an event stream, got status %d %s: %s", method, url, response.StatusCode, response.Header.Get("Content-Type"), text)
	}
	go func() {
		defer close(s.events)
		for reader := newEvents(response.Body); ; {
			e, err := reader.next()
			if err != nil {
				s.err = err
				return
			}
			select {
			case s.events <- e:
			case <-ctx.Done():
				s.err = ctx.Err()
				return
			}
		}
	}()
	t.Cleanup(s.Close)
	return s
}

// Next returns the next event that carries data, and is fatal when none comes in time or the stream ends.
func (s *Stream) Next(t testing.TB, patience time.Duration) Event {
	t.Helper()
	after := time.After(patience)
	for {
		select {
		case e, ok := <-s.events:
			if !ok {
				t.Fatalf("the stream ended: %v", s.err)
			}
			if e.Data != "" {
				return e
			}
		case <-after:
			t.Fatalf("no event within %v", patience)
		}
	}
}

// Until returns the first message of a JSON-RPC method and drops those before it; with method "" the
// first response.
func (s *Stream) Until(t testing.TB, method string, patience time.Duration) json.RawMessage {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		e := s.Next(t, time.Until(deadline))
		var m struct {
			Method string `json:"method"`
		}
		if err := json.Unmarshal([]byte(e.Data), &m); err != nil {
			t.Fatalf("an event that is not JSON: %q", e.Data)
		}
		if m.Method == method {
			return json.RawMessage(e.Data)
		}
	}
}

// End waits until the stream ends, and returns nil where it ended well.
func (s *Stream) End(t testing.TB, patience time.Duration) error {
	t.Helper()
	after := time.After(patience)
	for {
		select {
		case _, ok := <-s.events:
			if !ok {
				if errors.Is(s.err, io.EOF) {
					return nil
				}
				return s.err
			}
		case <-after:
			t.Fatalf("the stream is still open after %v", patience)
		}
	}
}

// Comment waits for a comment line, a keep-alive.
func (s *Stream) Comment(t testing.TB, patience time.Duration) {
	t.Helper()
	after := time.After(patience)
	for {
		select {
		case e, ok := <-s.events:
			if !ok {
				t.Fatalf("the stream ended: %v", s.err)
			}
			if e.Data == "" && e.Name == "" && e.ID == "" {
				return
			}
		case <-after:
			t.Fatalf("no comment within %v", patience)
		}
	}
}

// Close drops the stream, as a client that goes away does. Twice is harmless.
func (s *Stream) Close() {
	s.cancel()
	_ = s.body.Close() // the cut is the point
}

// events reads an event stream by the rules of the HTML standard, section 9.2.6.
type events struct{ lines *bufio.Reader }

func newEvents(r io.Reader) *events { return &events{bufio.NewReaderSize(r, 64<<10)} }

func (s *events) next() (Event, error) {
	var (
		e    Event
		data []string
		some bool
	)
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil { // an event without its blank line does not count
			return Event{}, err
		}
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == "" {
			if !some {
				continue
			}
			e.Data = strings.Join(data, "\n")
			return e, nil
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "": // a comment stands for itself, so that a test can see a keep-alive
			if !some {
				return Event{Comment: value}, nil
			}
		case "data":
			data, some = append(data, value), true
		case "event":
			e.Name, some = value, true
		case "id":
			e.ID, some = value, true
		case "retry":
			e.Retry, some = value, true
		}
	}
}
