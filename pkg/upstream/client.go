package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/sse"
)

// Bounds of what is read from one server.
const (
	defaultTimeout = 30 * time.Second
	fetchTimeout   = 2 * time.Minute
	deleteTimeout  = 5 * time.Second
	maxAnswer      = 16 << 20 // bytes of one answer, all events of its stream included
	maxFetch       = 64 << 20 // bytes of all pages of one list
	maxPages       = 1000     // pages of one list
	maxEvent       = 1 << 20  // bytes of one event on a stream of notifications
	maxSession     = 1024     // bytes of a session id
)

var errTooLarge = errors.New("answer above the bound")

// Options say where a server is and how it is spoken to.
type Options struct {
	Server    string            // its configured name
	URL       string            // where requests go; beside Envoy the egress socket answers for any host
	Header    http.Header       // set on every request: the gateway's own, they win over all others
	Transport http.RoundTripper // nil means http.DefaultTransport
	Trust     catalog.Trust
	Era       string        // "modern" or "legacy": the one era to speak; "" or "auto" finds out
	Timeout   time.Duration // of one request of Probe or Fetch; 0 means 30 s
	Version   string        // of the gateway, told in clientInfo
}

// Client speaks to one server. It is safe for concurrent use.
type Client struct {
	Options
	http *http.Client
	info []byte // Implementation object, JSON
	id   atomic.Int64
}

// NewClient returns a client; nothing is sent yet. Redirects are never followed and cookies never kept.
func NewClient(o Options) *Client {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	own := http.Header{"User-Agent": {"mcpgw/" + o.Version}}
	if o.Version == "" {
		own.Set("User-Agent", "mcpgw")
	}
	merge(own, o.Header)
	o.Header = own
	info := append([]byte(`{"name":"mcpgw","version":`), jsonrpc.AppendString(nil, o.Version)...)
	return &Client{
		Options: o,
		http: &http.Client{
			Transport:     o.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		info: append(info, '}'),
	}
}

// Do posts one message. header may be nil; Content-Type and Accept are set where it does not. The caller closes the body.
// An error is a *Error. There is no time limit but that of ctx.
func (c *Client) Do(ctx context.Context, body []byte, header http.Header) (*http.Response, error) {
	return c.send(ctx, http.MethodPost, body, header)
}

func (c *Client) send(ctx context.Context, method string, body []byte, header http.Header) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL, r)
	if err != nil {
		return nil, &Error{Reason: Unavailable, Step: method, Cause: err}
	}
	accept := "text/event-stream"
	if body != nil {
		accept = "application/json, text/event-stream"
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", accept)
	merge(req.Header, header)
	merge(req.Header, c.Header)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, &Error{Reason: reason(err), Step: method, Cause: err}
	}
	return resp, nil
}

// merge sets headers, whatever case their names are kept in.
func merge(dst, src http.Header) {
	for name, values := range src {
		dst[http.CanonicalHeaderKey(name)] = values
	}
}

// answer is a server's reply to one request.
type answer struct {
	result map[string]jsontext.Value
	raw    []byte // the result
	header http.Header
	size   int
}

// call posts a request made by this client and reads its answer within the time limit.
func (c *Client) call(ctx context.Context, method string, params []byte, header http.Header) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	id := strconv.FormatInt(c.id.Add(1), 10)
	body := request(id, method, params)
	resp, err := c.Do(ctx, body, header)
	if err != nil {
		err.(*Error).Step = method //nolint:errorlint // Do returns no other
		return nil, err
	}
	defer drain(resp.Body)
	a, err := read(resp, id)
	if err != nil {
		var e *Error
		if !errors.As(err, &e) {
			e = &Error{Reason: reason(err), Cause: err}
		}
		e.Step, e.Status = method, resp.StatusCode
		return nil, e
	}
	return a, nil
}

// request is a JSON-RPC request; an empty id makes a notification.
func request(id, method string, params []byte) []byte {
	b := []byte(`{"jsonrpc":"2.0",`)
	if id != "" {
		b = append(append(append(b, `"id":`...), id...), ',')
	}
	b = append(jsonrpc.AppendString(append(b, `"method":`...), method), `,"params":`...)
	if params == nil {
		params = []byte("{}")
	}
	return append(append(b, params...), '}')
}

// drain lets a connection be used again where little is left to read, and gives it up otherwise.
func drain(body io.ReadCloser) {
	io.CopyN(io.Discard, body, 64<<10) //nolint:errcheck // the connection is then given up
	body.Close()
}

// read finds the response to id in an HTTP answer, which is one JSON object or a stream of events.
func read(resp *http.Response, id string) (*answer, error) {
	if r := refusal(resp.StatusCode); r != "" {
		return nil, &Error{Reason: r, Cause: fmt.Errorf("status %d", resp.StatusCode)}
	}
	body := &bounded{r: resp.Body, left: maxAnswer}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch media {
	case "application/json":
		b, err := io.ReadAll(body)
		if err != nil {
			return nil, err
		}
		a, mine, err := response(b, id)
		if err == nil && !mine {
			err = errors.New("the answer has another id")
		}
		if err != nil {
			return nil, asNotMCP(err)
		}
		a.header, a.size = resp.Header, len(b)
		return a, nil
	case "text/event-stream":
		if resp.StatusCode != http.StatusOK {
			break
		}
		events := sse.NewReader(body, maxAnswer)
		for {
			e, err := events.Next()
			if err != nil {
				return nil, err // also io.EOF: a stream that ends before its response is cut
			}
			if e.Comment || len(e.Data) == 0 || e.Name != "" && e.Name != "message" {
				continue
			}
			a, mine, err := response(e.Data, id)
			if err != nil {
				return nil, asNotMCP(err)
			}
			if mine {
				a.header, a.size = resp.Header, len(e.Data)
				return a, nil
			}
		}
	}
	return nil, &Error{Reason: NotMCP, Cause: fmt.Errorf("status %d with content type %q", resp.StatusCode, media)}
}

func asNotMCP(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Reason: NotMCP, Cause: err}
}

// response reads one message; mine is false for another message of the same stream. A JSON-RPC error gives a *Error.
func response(raw []byte, id string) (a *answer, mine bool, err error) {
	m, err := object(raw)
	if err != nil {
		return nil, false, err
	}
	if str(m["jsonrpc"]) != "2.0" {
		return nil, false, errors.New("not a JSON-RPC message")
	}
	if m["method"] != nil {
		return nil, false, nil // a notification, or a request that the reading of lists has no use for
	}
	if fail := m["error"]; fail != nil {
		if got := string(m["id"]); got != id && got != "null" && got != "" {
			return nil, false, nil
		}
		f, err := object(fail)
		if err != nil {
			return nil, false, err
		}
		code, err := strconv.Atoi(string(f["code"]))
		if err != nil {
			return nil, false, errors.New("an error without a code")
		}
		return nil, true, &Error{Reason: Refused, Code: code, Data: f["data"], Cause: fmt.Errorf("code %d: %.200q", code, str(f["message"]))}
	}
	if string(m["id"]) != id {
		return nil, false, nil
	}
	result, err := object(m["result"])
	if err != nil {
		return nil, false, fmt.Errorf("result: %w", err)
	}
	return &answer{result: result, raw: m["result"]}, true, nil
}

// bounded fails once more than left bytes were read, where io.LimitReader would pretend an end.
type bounded struct {
	r    io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// modern is the header of a modern request that this client makes itself.
func modern(method string) http.Header {
	return http.Header{
		canonVersion: {string(mcp.R20260728)},
		canonMethod:  {method},
	}
}

// The headers in the form in which http.Header keeps them.
var (
	canonVersion = http.CanonicalHeaderKey(mcp.HeaderVersion)
	canonMethod  = http.CanonicalHeaderKey(mcp.HeaderMethod)
	canonName    = http.CanonicalHeaderKey(mcp.HeaderName)
	canonSession = http.CanonicalHeaderKey(mcp.HeaderSession)
)
