package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// requestBody is a message as a client sends it, padded to size bytes where it has a text.
func requestBody(s scenario, size int) []byte {
	params := ""
	if s.method == call {
		arguments := `"text":"`
		if s.changes {
			arguments = fmt.Sprintf(`"key":"%d","text":"`, firstNumber)
		}
		params = fmt.Sprintf(`"name":%q,"arguments":{%s\x00"}`, s.tool, arguments)
	}
	if !s.legacy {
		if params != "" {
			params += ","
		}
		params += `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	}
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{%s}}`, firstNumber, s.method, params)
	head, rest, ok := strings.Cut(body, `\x00`)
	if !ok {
		return []byte(body)
	}
	return []byte(head + prose(max(size-len(head)-len(rest), 1)) + rest)
}

// prose is text of n bytes of JSON, with an escaped line break here and there as texts have them.
func prose(n int) string {
	const line = `The quick brown fox jumps over the lazy dog, twice a day.\n`
	b := strings.Repeat(line, n/len(line))
	return b + strings.Repeat(".", n-len(b))
}

// numbersIn finds where the numbers stand that change from call to call.
func numbersIn(body []byte) []int {
	var out []int
	number := []byte(strconv.Itoa(firstNumber))
	for at := 0; ; {
		i := bytes.Index(body[at:], number)
		if i < 0 {
			return out
		}
		out = append(out, at+i)
		at += i + len(number)
	}
}

// headers are what a good client sends, the n-th connection of them.
func (t *target) headers(s scenario, n int) map[string]string {
	h := map[string]string{
		"Accept": "application/json, text/event-stream", "Content-Type": "application/json", "User-Agent": "bench/1",
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": s.method, "Authorization": "Bearer " + key,
	}
	if s.tool != "" {
		h["Mcp-Name"] = s.tool
	}
	if s.legacy {
		delete(h, "Mcp-Method")
		delete(h, "Mcp-Name")
		h["Mcp-Protocol-Version"] = "2025-11-25"
		if n < len(t.sessions) {
			h["Mcp-Session-Id"] = t.sessions[n]
		}
	}
	return h
}

// prepare makes the job of a cell: one call is made and understood, and all others must be answered like it.
func (t *target) prepare(ctx context.Context, c *cell) error {
	if c.legacy && len(t.sessions) < c.connections {
		if err := t.openSessions(ctx, c.scenario, c.connections-len(t.sessions)); err != nil {
			return err
		}
	}
	body := requestBody(c.scenario, c.payload)
	answer, _, err := t.once(ctx, c.scenario, body)
	if err != nil {
		return fmt.Errorf("case %s: %w", c.name, err)
	}
	before, after, ok := bytes.Cut(answer, []byte(strconv.Itoa(firstNumber)))
	if !ok {
		return fmt.Errorf("case %s: no id in the answer", c.name)
	}
	c.payload = len(body)
	c.job = job{Address: t.address, Body: body, Numbers: numbersIn(body), Want: [2][]byte{before, after}}
	for n := range c.connections {
		var h strings.Builder
		fmt.Fprintf(&h, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n", c.path, len(body))
		lines := t.headers(c.scenario, n)
		for _, name := range slices.Sorted(maps.Keys(lines)) {
			fmt.Fprintf(&h, "%s: %s\r\n", name, lines[name])
		}
		h.WriteString("\r\n")
		c.job.Heads = append(c.job.Heads, []byte(h.String()))
	}
	return nil
}

// openSessions opens n sessions of 2025-11-25 and makes one call in each, so that the server has its session, too.
func (t *target) openSessions(ctx context.Context, s scenario, n int) error {
	var mu sync.Mutex
	var group sync.WaitGroup
	var fault error
	next := make(chan struct{}, n)
	for range n {
		next <- struct{}{}
	}
	close(next)
	for range min(n, 8) {
		group.Go(func() {
			for range next {
				id, err := t.openSession(ctx, s)
				mu.Lock()
				if err != nil {
					fault = err
				} else {
					t.sessions = append(t.sessions, id)
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	group.Wait()
	return fault
}

func (t *target) openSession(ctx context.Context, s scenario) (string, error) {
	mine := &target{address: t.address}
	hello := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`, firstNumber)
	_, header, err := mine.once(ctx, scenario{path: s.path, method: "initialize", legacy: true}, hello)
	if err != nil {
		return "", err
	}
	mine.sessions = []string{header.Get("Mcp-Session-Id")}
	if _, _, err := mine.once(ctx, scenario{path: s.path, method: "notifications/initialized", legacy: true}, []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)); err != nil {
		return "", err
	}
	_, _, err = mine.once(ctx, s, requestBody(s, 0))
	return mine.sessions[0], err
}
