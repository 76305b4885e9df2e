package stdio

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// legacy serves one message to a legacy child (2025-11-25, "Streamable HTTP").
func (s *Server) legacy(w http.ResponseWriter, r *http.Request, f *face, m *jsonrpc.Message, free func()) {
	if claim := m.Meta.Get(mcp.MetaVersion); claim.Exists() { // a caller that finds out what we speak
		refuse(w, m.ID, unsupported(f, claim.Raw), true)
		return
	}
	if m.Kind == jsonrpc.Request && m.Method == mcp.MethodInitialize {
		if f.link == nil {
			s.initializeOwn(w, r, m, free)
			return
		}
		x, fail := s.handle()
		if fail != nil {
			refuse(w, m.ID, fail, true)
			return
		}
		w.Header().Set(mcp.HeaderSession, x.id)
		writeJSON(w, http.StatusOK, jsonrpc.Result(m.ID, f.initialize))
		return
	}
	if v := r.Header.Get(mcp.HeaderVersion); v != "" && (!mcp.Revision(v).Known() || mcp.Revision(v).Modern()) {
		refuse(w, m.ID, unsupported(f, jsonrpc.AppendString(nil, v)), true)
		return
	}
	x, fail := s.sessionOf(r)
	if fail != nil {
		refuse(w, m.ID, fail, true)
		return
	}
	defer x.leave()
	l := x.child()
	own := l != nil
	if !own {
		l = f.link
	}
	switch {
	case l == nil: // a handle that outlived the child's change to another way of serving
		s.drop(x)
		refuse(w, m.ID, fault.New(fault.NoSession, "unknown session"), true)
	case m.Kind != jsonrpc.Request:
		s.told(l, x, own, m)
		w.WriteHeader(http.StatusAccepted)
	case own:
		s.call(w, r, l, x, m, free)
	case m.Method == mcp.MethodPing, m.Method == mcp.MethodSetLevel:
		// The child's log level is one for all, and its log goes to no client: there is nothing to set.
		writeJSON(w, http.StatusOK, jsonrpc.Result(m.ID, nil))
	default:
		if class := mcp.R20251125.Method(m.Method).Class; class != mcp.List && class != mcp.Use {
			refuse(w, m.ID, fault.New(fault.NoMethod, "the server is shared and does not serve this method"), true)
			return
		}
		s.call(w, r, l, x, m, free)
	}
}

// call sends a request and waits for its answer. In this era a caller who leaves does not end the call; notifications/cancelled does.
func (s *Server) call(w http.ResponseWriter, r *http.Request, l *link, x *session, m *jsonrpc.Message, free func()) {
	c := newCall(m, x)
	if fail := l.send(c, m, free); fail != nil {
		refuse(w, m.ID, fail, true)
		return
	}
	s.exchange(w, r, l, c, true, func() bool {
		l.left(c)
		return true
	})
}

// told acts on a client's notification or answer. Only what the gateway lets a session say reaches the child, and of a shared child
// only the cancellation of the session's own call.
func (s *Server) told(l *link, x *session, own bool, m *jsonrpc.Message) {
	switch {
	case m.Kind == jsonrpc.Response:
		if own && x.answered(m.ID) {
			_ = l.tell(m.Body) // a child that does not read misses it, as it does everything else
		}
	case m.Method == mcp.NotifyCancelled:
		if c := l.callOf(x, m.Params.Get("requestId").Raw); c != nil {
			l.abandon(c, "cancelled by the client", unserved(s.o.Name, reasonCancelled, errors.New("cancelled by the client")))
		}
	case !own:
	case m.Method == mcp.NotifyInitialized, m.Method == mcp.NotifyProgress, m.Method == mcp.NotifyRootsChanged:
		_ = l.tell(m.Body)
	}
}

// initializeOwn opens a session with a child of its own, which hears the client's own words: its version and capabilities.
func (s *Server) initializeOwn(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message, free func()) {
	x, l, fail := s.spawn()
	if fail != nil {
		refuse(w, m.ID, fail, true)
		return
	}
	c := newCall(m, x)
	if fail := l.send(c, m, free); fail != nil {
		s.drop(x)
		refuse(w, m.ID, fail, true)
		return
	}
	t := time.NewTimer(startTime)
	defer t.Stop()
	select {
	case <-c.done:
		defer l.release(c)
		if c.fail != nil || !c.answer.Result.Exists() || !s.admit(x) {
			s.drop(x)
			break
		}
		w.Header().Set(mcp.HeaderSession, x.id)
	case <-t.C:
		s.drop(x)
		<-c.done
	case <-r.Context().Done():
		s.drop(x)
		return
	case <-s.closing:
		s.drop(x)
		<-c.done
	}
	if c.fail != nil { // nothing of the session exists: the client may try again
		refuse(w, m.ID, refused(s.o.Name, reasonDown, c.fail), true)
		return
	}
	(&answer{w: w, legacy: true}).end(c)
}

// get is the session's standalone stream.
func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		refuse(w, nil, fault.New(fault.NotAcceptable, "accept must name text/event-stream"), true)
		return
	}
	x, fail := s.sessionOf(r)
	if fail != nil {
		refuse(w, nil, fail, true)
		return
	}
	defer x.leave()
	messages, detached := x.attach()
	defer x.release(detached)
	out := &answer{w: w, legacy: true}
	out.stream()
	out.comment() // the caller sees the stream begin
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		select {
		case m := <-messages:
			out.event(m)
		case <-alive.C:
			out.comment()
		case <-detached:
			return
		case <-x.ended:
			return
		case <-s.closing:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// delete ends a session.
func (s *Server) delete(w http.ResponseWriter, r *http.Request) {
	x, fail := s.sessionOf(r)
	if fail != nil {
		refuse(w, nil, fail, true)
		return
	}
	s.drop(x)
	x.leave()
	w.WriteHeader(http.StatusOK)
}

// sessionOf finds the session that a request names and books its use; leave must follow.
func (s *Server) sessionOf(r *http.Request) (*session, *fault.Error) {
	id, ok := single(r.Header, mcp.HeaderSession)
	if !ok {
		return nil, fault.New(fault.NeedSession, "one %s header is needed", mcp.HeaderSession)
	}
	if x := s.session(id); x != nil {
		return x, nil
	}
	return nil, fault.New(fault.NoSession, "unknown session")
}
