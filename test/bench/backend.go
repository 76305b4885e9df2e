package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"

	"github.com/mcpgw/mcpgw/test/collector"
)

// The backend is an MCP server that costs next to nothing, one program for all: the path says which era it speaks and how many
// tools it has. Its calls are read by searching for what this benchmark's own requests look like.
const (
	pathModern = "/modern/2"
	pathLegacy = "/legacy/2"

	toolEcho   = "echo"
	toolLookup = "lookup" // the same, but policy reads its argument key
)

func backendRole() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go endWithParent()
	fmt.Println(l.Addr())
	return http.Serve(l, http.HandlerFunc(serveMCP))
}

// endWithParent ends the process when the one that started it closes the pipe, or is gone.
func endWithParent() {
	_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it
	os.Exit(0)
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func serveMCP(w http.ResponseWriter, r *http.Request) {
	_, rest, _ := strings.Cut(r.URL.Path, "/")
	era, count, _ := strings.Cut(rest, "/")
	tools, err := strconv.Atoi(count)
	if err != nil || tools < 1 || tools > 10_000 || era != "modern" && era != "legacy" {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodPost {
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.WriteHeader(http.StatusMethodNotAllowed) // no stream of its own
		return
	}
	in, out := buffers.Get().(*bytes.Buffer), buffers.Get().(*bytes.Buffer)
	defer func() {
		in.Reset()
		out.Reset()
		buffers.Put(in)
		buffers.Put(out)
	}()
	if _, err := in.ReadFrom(r.Body); err != nil {
		return // the caller has gone
	}
	status := http.StatusOK
	if !echo(out, in.Bytes(), era) {
		status = rare(w, out, in.Bytes(), era, tools)
	}
	h := w.Header()
	if out.Len() > 0 {
		h["Content-Type"] = []string{"application/json"}
	}
	h["Content-Length"] = []string{strconv.Itoa(out.Len())}
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // the caller may have gone
}

// echo answers a call of this benchmark.
func echo(out *bytes.Buffer, body []byte, era string) bool {
	head := body[:min(len(body), 200)]
	if !bytes.Contains(head, []byte(`"method":"tools/call"`)) {
		return false
	}
	id, ok := between(head, `"id":`, ',')
	if !ok {
		return false
	}
	text, ok := between(body, `"text":"`, '"')
	if !ok {
		return false
	}
	out.WriteString(`{"jsonrpc":"2.0","id":`)
	out.Write(id)
	out.WriteString(`,"result":{"content":[{"type":"text","text":"`)
	out.Write(text)
	out.WriteString(`"}]`)
	if era == "modern" {
		out.WriteString(`,"resultType":"complete"`)
	}
	out.WriteString("}}")
	return true
}

func between(b []byte, start string, end byte) ([]byte, bool) {
	i := bytes.Index(b, []byte(start))
	if i < 0 {
		return nil, false
	}
	b = b[i+len(start):]
	if i = bytes.IndexByte(b, end); i < 0 {
		return nil, false
	}
	return b[:i], true
}

// rare answers what a gateway asks for itself.
func rare(w http.ResponseWriter, out *bytes.Buffer, body []byte, era string, tools int) int {
	var m struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return http.StatusBadRequest
	}
	if m.ID == nil {
		return http.StatusAccepted
	}
	modern := era == "modern"
	switch {
	case modern && m.Method == "server/discover":
		fmt.Fprintf(out, `{"jsonrpc":"2.0","id":%s,"result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"resultType":"complete","ttlMs":3600000,"cacheScope":"public"}}`, m.ID)
	case !modern && m.Method == "initialize":
		w.Header().Set("Mcp-Session-Id", "bench")
		fmt.Fprintf(out, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}}`, m.ID)
	case m.Method == "tools/list":
		fmt.Fprintf(out, `{"jsonrpc":"2.0","id":%s,"result":{"tools":[`, m.ID)
		for n := range tools {
			if n > 0 {
				out.WriteByte(',')
			}
			fmt.Fprintf(out, `{"name":%q,"description":"Returns its text","inputSchema":{"type":"object","properties":{"key":{"type":"string"},"text":{"type":"string"}}}}`, toolName(n))
		}
		out.WriteByte(']')
		if modern {
			out.WriteString(`,"resultType":"complete","ttlMs":3600000,"cacheScope":"public"`)
		}
		out.WriteString("}}")
	default:
		fmt.Fprintf(out, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}`, m.ID)
		return http.StatusNotFound
	}
	return http.StatusOK
}

func toolName(n int) string {
	switch n {
	case 0:
		return toolEcho
	case 1:
		return toolLookup
	}
	return fmt.Sprintf("tool_%03d", n)
}

// collectorRole takes spans, so that tracing costs what it costs.
func collectorRole() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go endWithParent()
	fmt.Println(l.Addr())
	s := grpc.NewServer()
	collector.New().Register(s)
	return s.Serve(l)
}
