package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// Session is the legacy era towards a server: what initialize agreed on. It is safe for concurrent use.
//
// A server that lost the session answers 404; whoever holds the session then makes a new one, once, with the same params.
type Session struct {
	ID       string       // empty where the server holds no sessions
	Revision mcp.Revision // what the server chose
	Result   []byte       // InitializeResult, JSON, as the server sent it; nil after Resume

	client *Client
}

// Initialize opens a session: it sends initialize with these params (InitializeParams, a JSON object), reads the result, and
// sends notifications/initialized. A server that chooses a revision the gateway does not speak gives reason [Version].
func (c *Client) Initialize(ctx context.Context, params []byte) (*Session, error) {
	a, err := c.call(ctx, mcp.MethodInitialize, params, nil)
	if err != nil {
		return nil, err
	}
	s := &Session{ID: a.header.Get(mcp.HeaderSession), Revision: mcp.Revision(str(a.result["protocolVersion"])), Result: a.raw, client: c}
	if !sessionID(s.ID) {
		return nil, &Error{Reason: NotMCP, Step: mcp.MethodInitialize, Cause: errors.New("a session id with bytes outside 0x21-0x7e, or too long")}
	}
	if !s.Revision.Known() || s.Revision.Modern() {
		s.forget(ctx)
		return nil, &Error{Reason: Version, Step: mcp.MethodInitialize, Cause: fmt.Errorf("it chose %.40q", s.Revision)}
	}
	resp, err := s.timed(ctx, request("", mcp.NotifyInitialized, nil))
	if err == nil && (resp < 200 || resp > 299) {
		err = &Error{Reason: NotMCP, Step: mcp.NotifyInitialized, Status: resp, Cause: fmt.Errorf("status %d", resp)}
	}
	if err != nil {
		s.forget(ctx)
		return nil, err
	}
	return s, nil
}

// Resume is a session that was opened before, made from what a store kept of it. Its Result is not known.
func (c *Client) Resume(id string, revision mcp.Revision) *Session {
	return &Session{ID: id, Revision: revision, client: c}
}

func sessionID(s string) bool {
	for n := range len(s) {
		if s[n] < 0x21 || s[n] > 0x7e {
			return false
		}
	}
	return len(s) <= maxSession
}

// timed posts what has no answer and returns the status.
func (s *Session) timed(ctx context.Context, body []byte) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.client.Timeout)
	defer cancel()
	resp, err := s.Do(ctx, body, nil)
	if err != nil {
		return 0, err
	}
	drain(resp.Body)
	return resp.StatusCode, nil
}

// header is what every request of the session carries (2025-11-25, "Transports"; 2025-03-26 has no version header).
func (s *Session) header(extra http.Header) http.Header {
	h := http.Header{}
	merge(h, extra)
	delete(h, canonSession)
	delete(h, canonVersion)
	if s.ID != "" {
		h[canonSession] = []string{s.ID}
	}
	if s.Revision != mcp.R20250326 {
		h[canonVersion] = []string{string(s.Revision)}
	}
	return h
}

// Do posts one message in the session; extra headers may be nil. The caller closes the body. An error is a *Error; a status,
// 404 for a lost session too, is the caller's to read. There is no time limit but that of ctx.
func (s *Session) Do(ctx context.Context, body []byte, extra http.Header) (*http.Response, error) {
	return s.client.send(ctx, http.MethodPost, body, s.header(extra))
}

// Stream opens the server's own stream (GET). A server without one answers 405. The caller closes the body.
func (s *Session) Stream(ctx context.Context, extra http.Header) (*http.Response, error) {
	return s.client.send(ctx, http.MethodGet, nil, s.header(extra))
}

// Delete ends the session at the server. A server that keeps none, forbids it (405), or has forgotten it (404) is no error.
func (s *Session) Delete(ctx context.Context) error {
	if s.ID == "" {
		return nil
	}
	resp, err := s.client.send(ctx, http.MethodDelete, nil, s.header(nil))
	if err != nil {
		return err
	}
	drain(resp.Body)
	if ok := []int{http.StatusMethodNotAllowed, http.StatusNotFound}; resp.StatusCode > 299 && !slices.Contains(ok, resp.StatusCode) {
		return &Error{Reason: Unavailable, Step: http.MethodDelete, Status: resp.StatusCode, Cause: fmt.Errorf("status %d", resp.StatusCode)}
	}
	return nil
}

// forget deletes a session that nobody will use; ctx may be at its end already.
func (s *Session) forget(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	s.Delete(ctx) //nolint:errcheck // the server lets it expire
}

// call sends a request of this client in the session.
func (s *Session) call(ctx context.Context, method string, params []byte) (*answer, error) {
	return s.client.call(ctx, method, params, s.header(nil))
}

// lost reports whether a request failed because the server does not know the session any more.
func (s *Session) lost(err error) bool {
	var e *Error
	return s.ID != "" && errors.As(err, &e) && e.Status == http.StatusNotFound
}

// initializeParams is how the gateway introduces itself where it speaks for no client.
func (c *Client) initializeParams() []byte {
	b := jsonrpc.AppendString([]byte(`{"protocolVersion":`), string(mcp.LatestLegacy))
	return append(append(append(b, `,"capabilities":{},"clientInfo":`...), c.info...), '}')
}
