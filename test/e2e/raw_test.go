package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// raw is a modern MCP server that answers with exactly the bytes a test gives it, which no SDK does: they read numbers as floats and
// write objects anew. It keeps what it received.
type raw struct {
	URL string

	mu    sync.Mutex
	calls []rawCall
	tools string // of tools/list: the items
	reply map[string]func(w http.ResponseWriter, c rawCall)
}

// rawCall is a message that is no list and no probe.
type rawCall struct {
	Header, Trailer http.Header
	Body            []byte
	ID              json.RawMessage
	Arguments       json.RawMessage
}

// tool is what tools/list says of a tool; schema is its inputSchema.
func tool(name, schema string) string {
	return fmt.Sprintf(`{"name":%q,"description":"raw","inputSchema":%s}`, name, schema)
}

const anything = `{"type":"object"}`

// startRaw starts a server with these tools and, for each, what it answers.
func startRaw(t *testing.T, tools string, reply map[string]func(http.ResponseWriter, rawCall)) *raw {
	t.Helper()
	r := &raw{tools: tools, reply: reply}
	s := httptest.NewServer(r)
	r.URL = s.URL + "/mcp"
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return r
}

func (r *raw) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	var m struct {
		ID     json.RawMessage
		Method string
		Params struct {
			Name      string
			URI       string
			Arguments json.RawMessage
		}
	}
	if err != nil || q.Method != http.MethodPost || json.Unmarshal(body, &m) != nil {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	result := func(members string) {
		reply(w, http.StatusOK, fmt.Sprintf(`"result":{%s,"resultType":"complete"}`, members), m.ID)
	}
	switch m.Method {
	case "server/discover":
		result(`"supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"resources":{},"completions":{}},"ttlMs":60000,"cacheScope":"private"`)
		return
	case "tools/list":
		result(`"tools":[` + r.tools + `],"ttlMs":60000,"cacheScope":"private"`)
		return
	case "resources/list":
		result(`"resources":[{"uri":"test://grüße","name":"greetings"}],"ttlMs":60000,"cacheScope":"private"`)
		return
	case "resources/templates/list", "prompts/list":
		reply(w, http.StatusOK, `"error":{"code":-32601,"message":"no such method"}`, m.ID)
		return
	}
	c := rawCall{Header: q.Header.Clone(), Trailer: q.Trailer.Clone(), Body: body, ID: m.ID, Arguments: m.Params.Arguments}
	r.mu.Lock()
	r.calls = append(r.calls, c)
	answer := r.reply[m.Params.Name+m.Params.URI]
	r.mu.Unlock()
	if answer == nil {
		reply(w, http.StatusOK, `"error":{"code":-32602,"message":"the server does not know this"}`, m.ID)
		return
	}
	answer(w, c)
}

// reply writes one JSON-RPC response.
func reply(w http.ResponseWriter, status int, member string, id json.RawMessage) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,%s}`, id, member) // the peer may be gone
}

// Calls returns what was received since the last call of it.
func (r *raw) Calls() []rawCall {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}
