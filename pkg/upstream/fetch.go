package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// lists says how each kind is listed: method, member of the result, and the capability that announces it.
var lists = [...]struct{ method, member, capability string }{
	catalog.Tool:     {mcp.MethodToolsList, "tools", "tools"},
	catalog.Resource: {mcp.MethodResourcesList, "resources", "resources"},
	catalog.Template: {mcp.MethodTemplatesList, "resourceTemplates", "resources"},
	catalog.Prompt:   {mcp.MethodPromptsList, "prompts", "prompts"},
}

// Probe finds out which eras the server speaks, without reading its lists. The Source it returns has no items.
//
// A legacy server answers a modern request in many ways, 400 and 404 and 500, with JSON-RPC or without; so only what a server
// of that era would say counts as a yes, and everything else means: ask in the other era. A server that cannot be reached,
// does not answer in time or wants a credential is an error at once.
func (c *Client) Probe(ctx context.Context) (*catalog.Source, error) {
	s, session, err := c.probe(ctx)
	if session != nil {
		session.forget(ctx)
	}
	return s, err
}

// probe leaves the legacy session open, for reading. It is nil where the server speaks only the modern era.
func (c *Client) probe(ctx context.Context) (*catalog.Source, *Session, error) {
	s := &catalog.Source{Server: c.Server}
	var said []mcp.Revision
	err := errNotAsked
	if c.Era != "legacy" {
		if said, err = c.discover(ctx, s); err != nil && fatal(err) {
			return nil, nil, err
		}
	}
	var session *Session
	legacyErr := errNotAsked
	if c.Era == "modern" && err != nil {
		legacyErr = err
	} else if c.Era != "modern" {
		session, legacyErr = c.Initialize(ctx, c.initializeParams())
	}
	if legacyErr == nil {
		s.Legacy, s.Sessions = true, session.ID != ""
		said = append(said, session.Revision)
		if !s.Modern {
			if err := introduced(s, session.Result); err != nil {
				session.forget(ctx)
				return nil, nil, err
			}
		}
	}
	if !s.Modern && !s.Legacy {
		var e *Error
		if errors.As(err, &e) && e.Code == mcp.CodeVersion && !fatal(legacyErr) {
			return nil, nil, &Error{Reason: Version, Step: e.Step, Status: e.Status, Code: e.Code, Cause: err}
		}
		return nil, nil, legacyErr
	}
	for _, r := range mcp.Revisions {
		if slices.Contains(said, r) && (r.Modern() && s.Modern || !r.Modern() && s.Legacy) {
			s.Revisions = append(s.Revisions, r)
		}
	}
	return s, session, nil
}

// errNotAsked stands for the answer in an era that the configuration rules out.
var errNotAsked = errors.New("not asked in this era")

// fatal reports whether asking in the other era is of no use.
func fatal(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout: // a proxy's word for it, or a server that starts
		return true
	}
	return e.Reason == Timeout || e.Reason == Unauthorized || e.Reason == Unavailable && e.Status == 0
}

// discover asks in the modern era and returns the versions that the server names. s is filled where it is modern.
func (c *Client) discover(ctx context.Context, s *catalog.Source) ([]mcp.Revision, error) {
	a, err := c.modernCall(ctx, mcp.MethodDiscover, "")
	if err != nil {
		return nil, err
	}
	var said []mcp.Revision
	versions, err := elements(a.result["supportedVersions"])
	if err != nil {
		return nil, &Error{Reason: NotMCP, Step: mcp.MethodDiscover, Cause: fmt.Errorf("supportedVersions: %w", err)}
	}
	for _, v := range versions {
		if r := mcp.Revision(str(v)); r.Known() {
			said = append(said, r)
		}
	}
	if slices.ContainsFunc(said, mcp.Revision.Modern) {
		if err := capable(s, a.result); err != nil {
			return nil, err
		}
		s.Modern, s.TTL = true, ttl(a)
	}
	return said, nil
}

func introduced(s *catalog.Source, initializeResult []byte) error {
	result, err := object(initializeResult)
	if err != nil {
		return &Error{Reason: NotMCP, Step: mcp.MethodInitialize, Cause: err}
	}
	return capable(s, result)
}

// maxInstructions bounds what one server may say to every client of an endpoint.
const maxInstructions = 64 << 10

func capable(s *catalog.Source, result map[string]jsontext.Value) error {
	if c := result["capabilities"]; c != nil {
		if _, err := jsonrpc.Parse(c, jsonrpc.Limits{}); err != nil {
			return &Error{Reason: NotMCP, Step: "capabilities", Cause: err}
		}
		s.Capabilities = c
	}
	if text := str(result["instructions"]); len(text) <= maxInstructions {
		s.Instructions = text
	}
	return nil
}

// Fetch reads all that the server offers, its pages followed to their end, in the modern era where it speaks that. An error is
// a *Error; there is no half result.
func (c *Client) Fetch(ctx context.Context) (*catalog.Source, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	s, session, err := c.probe(ctx)
	if err != nil {
		return nil, err
	}
	read := c.modernCall
	if s.Modern {
		if session != nil {
			session.forget(ctx)
		}
	} else {
		made := false
		defer func() { session.forget(ctx) }() // whichever session it is by then
		read = func(ctx context.Context, method, cursor string) (*answer, error) {
			var params []byte
			if cursor != "" {
				params = []byte(`{"cursor":` + cursor + `}`)
			}
			a, err := session.call(ctx, method, params)
			if err == nil || made || !session.lost(err) {
				return a, err
			}
			made = true
			next, err := c.Initialize(ctx, c.initializeParams())
			if err != nil {
				return nil, err
			}
			session = next
			return session.call(ctx, method, params)
		}
	}
	announced, err := object(s.Capabilities)
	if err != nil {
		announced = nil // no capabilities: no lists
	}
	for kind, l := range lists {
		if announced[l.capability] == nil {
			continue
		}
		if err := c.list(ctx, s, catalog.Kind(kind), read); err != nil {
			return nil, err
		}
	}
	s.Fetched = time.Now()
	return s, nil
}

// list reads one list into s.
func (c *Client) list(ctx context.Context, s *catalog.Source, kind catalog.Kind, read func(ctx context.Context, method, cursor string) (*answer, error)) error {
	l := lists[kind]
	var (
		all    [][]byte
		cursor string // JSON text
		seen   = map[string]bool{}
		size   int
		note   string
	)
	for page := 0; ; page++ {
		a, err := read(ctx, l.method, cursor)
		if e := (*Error)(nil); errors.As(err, &e) && e.Code == mcp.CodeMethodNotFound {
			return nil // announced, yet without this list: many servers have no templates
		}
		if err != nil {
			return err
		}
		items, err := elements(a.result[l.member])
		if err != nil {
			return &Error{Reason: NotMCP, Step: l.method, Cause: fmt.Errorf("%s: %w", l.member, err)}
		}
		all = append(all, items...)
		if t := ttl(a); t > 0 && (s.TTL == 0 || t < s.TTL) {
			s.TTL = t
		}
		if size += a.size; size > maxFetch {
			return &Error{Reason: TooLarge, Step: l.method, Cause: errTooLarge}
		}
		next := a.result["nextCursor"]
		if next == nil || next.Kind() == jsontext.KindNull {
			break
		}
		if next.Kind() != jsontext.KindString {
			return &Error{Reason: NotMCP, Step: l.method, Cause: errors.New("nextCursor is not a string")}
		}
		if cursor = string(next); seen[cursor] {
			note = "and all after it: the server repeats a cursor"
			break
		}
		seen[cursor] = true
		if len(all) > catalog.MaxItems {
			break // Collect says so
		}
		if page+1 == maxPages {
			note = fmt.Sprintf("and all after it: more than %d pages", maxPages)
			break
		}
	}
	items, out := catalog.Collect(c.Server, kind, all, c.Trust)
	s.Items[kind] = items
	s.Quarantined = append(s.Quarantined, out...)
	if note != "" {
		s.Quarantined = append(s.Quarantined, catalog.Quarantined{Server: c.Server, Kind: kind, Name: "#" + strconv.Itoa(len(all)+1), Reason: note})
	}
	return nil
}

// modernCall sends a modern request of the gateway's own; cursor is JSON text or empty.
func (c *Client) modernCall(ctx context.Context, method, cursor string) (*answer, error) {
	params := append([]byte(`{"_meta":`), c.meta()...)
	if cursor != "" {
		params = append(append(params, `,"cursor":`...), cursor...)
	}
	return c.call(ctx, method, append(params, '}'), modern(method))
}

func (c *Client) meta() []byte {
	return append(appendMeta([]byte{'{'}, Meta{ClientInfo: c.info}, jsonrpc.Object{}), '}')
}

// ttl is what an answer promises; zero and absent both promise nothing.
func ttl(a *answer) time.Duration {
	ms, err := strconv.ParseInt(string(a.result["ttlMs"]), 10, 64)
	if err != nil || ms < 0 {
		return 0
	}
	return time.Duration(min(ms, int64(24*time.Hour/time.Millisecond))) * time.Millisecond
}
