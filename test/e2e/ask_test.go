package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpgw/mcpgw/test/harness"
)

const asking = `package mcpgw.policy

allow if count(input.subject.roles) > 0

ask contains "echo wants a human" if input.resource.name == "echo"

ask contains "the prompt wants a human" if input.resource.name == "greet"

ask contains "the text wants a human" if input.resource.name == "test://text"

deny contains "no shouting" if {
	input.resource.name == "echo"
	is_string(input.arguments.text)
	upper(input.arguments.text) == input.arguments.text
}
`

// able is what a client declares that can ask its user.
var able = map[string]any{"elicitation": map[string]any{}}

// asker is a client that can ask its user; a legacy one has opened its session.
func (w *world) asker(t *testing.T, path, key, revision string) *harness.Client {
	t.Helper()
	c := &harness.Client{URL: w.Base + path, Key: key, Revision: revision, Capabilities: able}
	if !c.Modern() {
		c.Initialize(t)
	}
	return c
}

// input is an input_required result.
type input struct {
	ResultType    string `json:"resultType"`
	RequestState  string `json:"requestState"`
	InputRequests map[string]struct {
		Method string
		Params struct {
			Mode, Message   string
			RequestedSchema map[string]any
		}
	} `json:"inputRequests"`
}

// back is what params of a call gain when the client comes back.
func back(params map[string]any, state string, answer any) map[string]any {
	out := map[string]any{"requestState": state, "inputResponses": map[string]any{"mcpgw_confirm": answer}}
	for k, v := range params {
		out[k] = v
	}
	return out
}

var (
	accept  = map[string]any{"action": "accept", "content": map[string]any{"confirm": true}}
	decline = map[string]any{"action": "decline"}
)

func echo(text string) map[string]any {
	return map[string]any{"name": "echo", "arguments": map[string]any{"text": text}}
}

// command runs the gateway's own command against this world.
func (w *world) command(t *testing.T, args ...string) (stdout, stderr string, ok bool) {
	t.Helper()
	stdout, stderr, status := command(t, append(args, "--config", w.Config)...)
	return stdout, stderr, status == 0
}

// TestAskModern: a modern client is asked with input_required and comes back.
func TestAskModern(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	w := start(t, setting{servers: server("s", b.URL, "modern"), policy: map[string]string{"policy.rego": asking}})
	w.lists(t, "/mcp/s", harness.R20260728, 4)
	c, other := w.asker(t, "/mcp/s", reader, harness.R20260728), w.asker(t, "/mcp/s", another, harness.R20260728)
	ask := func(t *testing.T, method string, params map[string]any) (r input) {
		t.Helper()
		c.Call(t, method, params).Result(t, &r)
		q := r.InputRequests["mcpgw_confirm"]
		if r.ResultType != "input_required" || q.Method != "elicitation/create" || q.Params.Mode != "form" || r.RequestState == "" {
			t.Fatalf("asked with %+v", r)
		}
		return r
	}
	b.Forget()
	for _, use := range []struct {
		method string
		params map[string]any
		says   string
	}{
		{"tools/call", echo("hello"), `echo wants a human`},
		{"prompts/get", map[string]any{"name": "greet", "arguments": map[string]any{"who": "Ada"}}, "the prompt wants a human"},
		{"resources/read", map[string]any{"uri": "test://text"}, "the text wants a human"},
	} {
		t.Run(use.method, func(t *testing.T) {
			asked := ask(t, use.method, use.params)
			if text := asked.InputRequests["mcpgw_confirm"].Params.Message; !strings.Contains(text, use.says) {
				t.Errorf("asks %q", text)
			}
			b.Untouched(t)
			refused(t, other.CallID(t, "7", use.method, back(use.params, asked.RequestState, accept)), refusal{200, 403, "7", ""})
			got := c.CallID(t, `"9007199254740993"`, use.method, back(use.params, asked.RequestState, accept))
			got.Result(t, nil)
			if id := string(got.Response(t).ID); id != `"9007199254740993"` {
				t.Errorf("the answer's id is %s", id)
			}
			sent := b.Await(t, 1, use.method, soon)
			if len(sent) != 1 || bytes.Contains(sent[0].Body, []byte("inputResponses")) || bytes.Contains(sent[0].Body, []byte("requestState")) {
				t.Errorf("the server received %d: %s", len(sent), sent[0].Body)
			}
			b.Forget()
			e := refused(t, c.CallID(t, "8", use.method, back(use.params, asked.RequestState, accept)), refusal{200, 403, "8", ""})
			if !strings.Contains(e.Message, "used already") {
				t.Errorf("a replay: %q", e.Message)
			}
			b.Untouched(t)
		})
	}
	t.Run("bound", func(t *testing.T) {
		asked := ask(t, "tools/call", echo("hello"))
		if text := asked.InputRequests["mcpgw_confirm"].Params.Message; !strings.Contains(text, `tools/call echo (s) with {"text":"hello"}`) {
			t.Errorf("asks %q", text)
		}
		for name, params := range map[string]map[string]any{
			"another argument": back(echo("hello!"), asked.RequestState, accept),
			"what is denied":   back(echo("HELLO"), asked.RequestState, accept),
			"a forged state":   back(echo("hello"), "mcpgw.ask.ABCDEFGHIJKLMNOPQRSTUVWXYZ", accept),
		} {
			if e := refused(t, c.CallID(t, "7", "tools/call", params), refusal{200, 403, "7", ""}); e.Message == "" {
				t.Errorf("%s: no reason", name)
			}
		}
		var again input
		without := echo("hello")
		without["inputResponses"] = map[string]any{"mcpgw_confirm": accept}
		if c.Call(t, "tools/call", without).Result(t, &again); again.RequestState == "" || again.RequestState == asked.RequestState {
			t.Errorf("an answer without a state: %+v", again)
		}
		if e := refused(t, c.CallID(t, "7", "tools/call", back(echo("hello"), again.RequestState, decline)), refusal{200, 403, "7", ""}); !strings.Contains(e.Message, "declined") {
			t.Errorf("a no: %q", e.Message)
		}
		refused(t, c.CallID(t, "7", "tools/call", back(echo("hello"), again.RequestState, accept)), refusal{200, 403, "7", ""})
		b.Untouched(t)
		if got := c.Call(t, "tools/call", back(echo("hello"), asked.RequestState, accept)).Text(t); got != "hello" {
			t.Errorf("got %q", got)
		}
		w.Stderr.Await(t, `"?approved_by"?[=:]"?user`, soon)
		b.Forget()
	})
	t.Run("policy reloads between", func(t *testing.T) {
		asked := ask(t, "tools/call", echo("hello"))
		policy := filepath.Join(filepath.Dir(w.Config), "policy", "policy.rego")
		harness.WriteFile(t, policy, strings.NewReplacer("echo wants a human", "echo wants two humans", "no shouting", "never shout").Replace(asking))
		harness.Eventually(t, soon, "the new policy is in force", func() bool {
			return strings.Contains(string(c.Call(t, "tools/call", echo("HELLO")).Body), "never shout")
		})
		var again input
		if c.Call(t, "tools/call", back(echo("hello"), asked.RequestState, accept)).Result(t, &again); again.ResultType != "input_required" || again.RequestState == asked.RequestState {
			t.Errorf("under another policy: %+v", again)
		}
		harness.WriteFile(t, policy, asking+"\ndeny contains \"echo is closed\" if {\n\tinput.resource.name == \"echo\"\n\tnot input.arguments.open\n}\n")
		harness.Eventually(t, soon, "the policy that denies is in force", func() bool {
			return strings.Contains(string(c.Call(t, "tools/call", echo("HELLO")).Body), "echo is closed")
		})
		if e := c.Call(t, "tools/call", back(echo("hello"), again.RequestState, accept)).Failure(t); !strings.Contains(e.Message, "echo is closed") {
			t.Errorf("a deny does not win: %+v", e)
		}
		b.Untouched(t)
	})
}

// TestAskRounds: a server that asks for more goes on with the call that was confirmed, and with no other.
func TestAskRounds(t *testing.T) {
	s := startRaw(t, tool("echo", anything), map[string]func(http.ResponseWriter, rawCall){
		"echo": func(w http.ResponseWriter, c rawCall) {
			if !bytes.Contains(c.Body, []byte(`"requestState":"of the server"`)) {
				reply(w, 200, `"result":{"resultType":"input_required","inputRequests":{"user_name":{"method":"elicitation/create","params":{"mode":"form","message":"who?","requestedSchema":{"type":"object","properties":{}}}}},"requestState":"of the server"}`, c.ID)
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":1}}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"done\"}],\"resultType\":\"complete\",\"n\":9007199254740993.0}}\n\n", c.ID)
		},
	})
	w := start(t, setting{servers: server("raw", s.URL, "modern"), policy: map[string]string{"policy.rego": asking}})
	w.lists(t, "/mcp/raw", harness.R20260728, 1)
	c := w.asker(t, "/mcp/raw", reader, harness.R20260728)
	s.Calls()

	var asked, more, stranger input
	c.Call(t, "tools/call", echo("hello")).Result(t, &asked)
	if len(s.Calls()) != 0 {
		t.Fatal("the server was called before anybody confirmed")
	}
	if c.Call(t, "tools/call", back(echo("hello"), asked.RequestState, accept)).Result(t, &more); more.RequestState != "of the server" || more.InputRequests["user_name"].Params.Message != "who?" {
		t.Fatalf("the server's question is %+v", more)
	}
	if calls := s.Calls(); len(calls) != 1 || bytes.Contains(calls[0].Body, []byte("mcpgw")) || calls[0].Header.Get("Mcp-Name") != "echo" || calls[0].Header.Get("Mcp-Method") != "tools/call" {
		t.Errorf("the server received %+v", calls)
	}
	next := func(text string) map[string]any {
		p := echo(text)
		p["requestState"], p["inputResponses"] = "of the server", map[string]any{"user_name": map[string]any{"action": "accept", "content": map[string]any{}}}
		return p
	}
	if c.Call(t, "tools/call", next("other")).Result(t, &stranger); !strings.HasPrefix(stranger.RequestState, "mcpgw.ask.") {
		t.Errorf("another argument in the server's round: %+v", stranger)
	}
	if len(s.Calls()) != 0 {
		t.Error("another argument reached the server")
	}
	got := c.Call(t, "tools/call", next("hello"))
	if got.Text(t) != "done" || !bytes.Contains(got.Body, []byte("9007199254740993.0")) || !bytes.Contains(got.Body, []byte("notifications/progress")) {
		t.Errorf("got %s", got.Body)
	}
	if calls := s.Calls(); len(calls) != 1 || !bytes.Contains(calls[0].Body, []byte(`"user_name"`)) {
		t.Errorf("the server received %+v", calls)
	}
	if c.Call(t, "tools/call", next("hello")).Result(t, &stranger); !strings.HasPrefix(stranger.RequestState, "mcpgw.ask.") || len(s.Calls()) != 0 {
		t.Errorf("a round that is over: %+v", stranger)
	}
}

// question is an elicitation on a legacy client's stream.
type question struct {
	ID     json.RawMessage
	Params struct {
		Message         string
		RequestedSchema map[string]any
	}
}

// TestAskLegacy: a legacy client is asked on the stream of its call.
func TestAskLegacy(t *testing.T) {
	dual, modern := harness.StartBackend(t, harness.Dual, nil), harness.StartBackend(t, harness.Modern, nil)
	w := start(t, setting{
		servers: server("relayed", dual.URL, "auto") + server("bridged", modern.URL, "modern"), policy: map[string]string{"policy.rego": asking},
		rest: "limits: { stream_keepalive: 1s }",
	})
	for name, b := range map[string]*harness.Backend{"relayed": dual, "bridged": modern} {
		w.lists(t, "/mcp/"+name, harness.R20251125, 4)
		each(t, []string{harness.R20251125, harness.R20250618}, func(t *testing.T, revision string) {
			c := w.asker(t, "/mcp/"+name, reader, revision)
			ask := func(id, text string) (*harness.Stream, question) {
				t.Helper()
				s := c.Stream(t, id, "tools/call", echo(text))
				var q question
				if err := json.Unmarshal(s.Until(t, "elicitation/create", soon), &q); err != nil || !strings.Contains(q.Params.Message, "echo wants a human") {
					t.Fatalf("asked with %+v: %v", q, err)
				}
				return s, q
			}
			ends := func(s *harness.Stream) harness.Response {
				t.Helper()
				var r harness.Response
				if err := json.Unmarshal(s.Until(t, "", soon), &r); err != nil {
					t.Fatal(err)
				}
				if err := s.End(t, soon); err != nil {
					t.Errorf("the stream ends with %v", err)
				}
				return r
			}
			b.Forget()
			t.Run(name+", accepted", func(t *testing.T) {
				s, q := ask(`"a"`, "hello")
				s.Comment(t, soon) // it is kept alive meanwhile
				stranger := w.asker(t, "/mcp/"+name, another, revision)
				refused(t, stranger.Respond(t, string(q.ID), accept), refusal{400, -32600, "", ""})
				sibling := w.asker(t, "/mcp/"+name, reader, revision)
				refused(t, sibling.Respond(t, string(q.ID), accept), refusal{400, -32600, "", ""})
				b.Untouched(t)
				if got := c.Respond(t, string(q.ID), accept); got.Status != http.StatusAccepted {
					t.Errorf("the answer gets %d %s", got.Status, got.Body)
				}
				if r := ends(s); string(r.ID) != `"a"` || !strings.Contains(string(r.Result), "hello") {
					t.Errorf("got %s %s %+v", r.ID, r.Result, r.Error)
				}
				refused(t, c.Respond(t, string(q.ID), accept), refusal{400, -32600, "", ""})
				if n := len(b.Requests("tools/call")); n != 1 {
					t.Errorf("the server was called %d times", n)
				}
				w.Stderr.Await(t, `confirmation.*approved_by.{1,3}user`, soon)
			})
			b.Forget()
			for answer, want := range map[string]any{"declined": decline, "dismissed": map[string]any{"action": "cancel"}, "could not ask": map[string]any{"action": "perhaps"}} {
				t.Run(name+", "+answer, func(t *testing.T) {
					s, q := ask("5", "hello")
					c.Respond(t, string(q.ID), want)
					if r := ends(s); string(r.ID) != "5" || r.Error == nil || r.Error.Code != 403 || !strings.Contains(r.Error.Message, answer) || !strings.Contains(string(r.Error.Data), `"decision":"ask"`) {
						t.Errorf("got %s %+v", r.ID, r.Error)
					}
				})
			}
			t.Run(name+", cancelled", func(t *testing.T) {
				s, _ := ask("6", "hello")
				c.Notify(t, "notifications/cancelled", map[string]any{"requestId": 6})
				s.Until(t, "notifications/cancelled", soon)
				if err := s.End(t, soon); err != nil {
					t.Errorf("the stream ends with %v", err)
				}
			})
			t.Run(name+", left", func(t *testing.T) {
				open := func() uint64 {
					return w.stats(t, `^cluster\.broker\.upstream_rq_active$`)["cluster.broker.upstream_rq_active"]
				}
				before := open()
				s, q := ask("7", "hello")
				s.Close()
				// An answer that overtakes the news of the client's leaving counts, as it may.
				harness.Eventually(t, soon, "the call is given up", func() bool { return open() <= before })
				harness.Eventually(t, soon, "nobody waits for the answer", func() bool {
					return c.Respond(t, string(q.ID), accept).Status == http.StatusBadRequest
				})
			})
			b.Untouched(t)
		})
	}
	t.Run("the session ends", func(t *testing.T) {
		dual.Forget()
		c := w.asker(t, "/mcp/relayed", reader, harness.R20251125)
		s := c.Stream(t, "1", "tools/call", echo("hello"))
		s.Until(t, "elicitation/create", soon)
		c.Close(t)
		s.Until(t, "", soon)
		dual.Untouched(t)
	})
	t.Run("2025-03-26", func(t *testing.T) {
		e := refused(t, w.asker(t, "/mcp/relayed", reader, harness.R20250326).CallID(t, "7", "tools/call", echo("hello")), refusal{200, 403, "7", ""})
		if !strings.Contains(e.Message, "cannot ask") {
			t.Errorf("refused with %q", e.Message)
		}
	})
}

// TestAskExpires: nobody waits for ever.
func TestAskExpires(t *testing.T) {
	b := harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{
		servers: server("s", b.URL, "auto"), policy: map[string]string{"policy.rego": asking}, approvals: "expiry: 1s, pending_per_principal: 2, by: user",
		endpoints: "\n  - { name: mcp, path: /mcp, per_server: true }\n  - { name: told, path: /told, denials: result }",
	})
	w.lists(t, "/mcp/s", harness.R20260728, 4)
	b.Forget()
	modern, legacy := w.asker(t, "/mcp/s", reader, harness.R20260728), w.asker(t, "/mcp/s", reader, harness.R20251125)
	var asked input
	modern.Call(t, "tools/call", echo("hello")).Result(t, &asked)
	s := legacy.Stream(t, "1", "tools/call", echo("hello"))
	s.Until(t, "elicitation/create", soon)
	e := refused(t, modern.CallID(t, "7", "tools/call", echo("more")), refusal{429, 429, "7", "Retry-After: 30"})
	if !strings.Contains(e.Message, "of this caller") {
		t.Errorf("a third question: %q", e.Message)
	}
	w.asker(t, "/mcp/s", another, harness.R20260728).Call(t, "tools/call", echo("hello")).Result(t, nil) // somebody else is not concerned
	s.Until(t, "notifications/cancelled", soon)
	var r harness.Response
	if err := json.Unmarshal(s.Until(t, "", soon), &r); err != nil || r.Error == nil || !strings.Contains(r.Error.Message, "in time") {
		t.Errorf("got %+v (%v)", r, err)
	}
	time.Sleep(time.Second) // the time itself is what is tested
	if e := refused(t, modern.CallID(t, "7", "tools/call", back(echo("hello"), asked.RequestState, accept)), refusal{200, 403, "7", ""}); !strings.Contains(e.Message, "expired") {
		t.Errorf("too late: %q", e.Message)
	}
	each(t, all, func(t *testing.T, revision string) { // who cannot ask, where the user alone may answer
		c := w.client(t, "/mcp/s", reader, revision)
		if e := refused(t, c.CallID(t, "7", "tools/call", echo("hello")), refusal{200, 403, "7", ""}); !strings.Contains(e.Message, "this client cannot ask") || strings.Contains(string(e.Data), "approval") {
			t.Errorf("refused with %q %s", e.Message, e.Data)
		}
		c.URL = w.Base + "/told"
		if !c.Modern() {
			c.Initialize(t)
		}
		var result struct{ IsError bool }
		if got := c.Tool(t, "s_echo", map[string]any{"text": "hello"}); got.Result(t, &result) == nil || !result.IsError || !strings.Contains(got.Text(t), "this client cannot ask") {
			t.Errorf("got %s", got.Body)
		}
	})
	b.Untouched(t)
}

// TestAskOperator: an operator confirms, with the gateway's own command, what a client cannot ask.
func TestAskOperator(t *testing.T) {
	b := harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{servers: server("s", b.URL, "auto"), policy: map[string]string{"policy.rego": asking}})
	w.lists(t, "/mcp/s", harness.R20260728, 4)
	b.Forget()
	if out, _, ok := w.command(t, "approvals"); !ok || !strings.Contains(out, "No call waits") {
		t.Errorf("nothing waits: %q", out)
	}
	each(t, []string{harness.R20260728, harness.R20251125, harness.R20250326}, func(t *testing.T, revision string) {
		c, other := w.client(t, "/mcp/s", reader, revision), w.client(t, "/mcp/s", another, revision)
		call := map[string]any{"name": "echo", "arguments": map[string]any{"text": "hello " + revision}}
		e := refused(t, c.CallID(t, "7", "tools/call", call), refusal{200, 403, "7", ""})
		data := object(t, e.Data)
		id, _ := data["approval"].(string)
		if data["decision"] != "ask" || id == "" || !strings.Contains(e.Message, "mcpgw approve "+id) || !strings.Contains(e.Message, "cannot ask") || !strings.Contains(e.Message, "echo wants a human") {
			t.Fatalf("refused with %q %s", e.Message, e.Data)
		}
		out, _, ok := w.command(t, "approvals", "--key", operator)
		for _, want := range []string{id, "pending", "user reader", "tools/call echo of server s", `{"text":"hello ` + revision + `"}`, "echo wants a human", "expires in"} {
			if !ok || !strings.Contains(out, want) {
				t.Errorf("approvals does not say %q:\n%s", want, out)
			}
		}
		type listing struct{ ID, State string }
		var listed struct{ Approvals []listing }
		out, _, _ = w.command(t, "approvals", "--output", "json")
		if err := json.Unmarshal([]byte(out), &listed); err != nil || !slices.ContainsFunc(listed.Approvals, func(a listing) bool { return a.ID == id && a.State == "pending" }) {
			t.Errorf("as JSON: %v\n%s", err, out)
		}
		for name, args := range map[string][]string{
			"no operator has this key":  {"approve", id, "--key", "guessed"},
			"does not name approve":     {"approve", id, "--key", explainer},
			"there is no such question": {"approve", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
			"is no ID":                  {"approve", "../catalog"},
			"0 arguments, want 1":       {"approve"},
		} {
			if _, errs, ok := w.command(t, args...); ok || !strings.Contains(errs, name) {
				t.Errorf("%v says %q, want %q", args, errs, name)
			}
		}
		refused(t, c.CallID(t, "7", "tools/call", call), refusal{200, 403, "7", ""})
		if out, errs, ok := w.command(t, "approve", id, "--key", operator); !ok || !strings.Contains(out, "Approved") {
			t.Fatalf("approve: %s%s", out, errs)
		}
		w.Stderr.Await(t, `confirmation.*`+id+`.*olga`, soon)
		refused(t, other.CallID(t, "7", "tools/call", call), refusal{200, 403, "7", ""})
		refused(t, c.CallID(t, "7", "tools/call", echo("something else")), refusal{200, 403, "7", ""})
		b.Untouched(t)
		if got := c.Call(t, "tools/call", call).Text(t); got != "hello "+revision {
			t.Errorf("got %q", got)
		}
		w.Stderr.Await(t, `approved_by"?[=:]"?operator:olga`, soon)
		again := object(t, refused(t, c.CallID(t, "7", "tools/call", call), refusal{200, 403, "7", ""}).Data)["approval"].(string)
		if again == id {
			t.Error("an approval counts twice")
		}
		if out, errs, ok := w.command(t, "approve", "--deny", again); !ok || !strings.Contains(out, "Denied") {
			t.Fatalf("deny: %s%s", out, errs)
		}
		if e := refused(t, c.CallID(t, "7", "tools/call", call), refusal{200, 403, "7", ""}); !strings.Contains(e.Message, "an operator has denied") {
			t.Errorf("refused with %q", e.Message)
		}
		if n := len(b.Requests("tools/call")); n != 1 {
			t.Errorf("the server was called %d times", n)
		}
		b.Forget()
		out, _, _ = w.command(t, "approvals", "--output", "json") // the other caller's, and what else was tried
		for _, id := range regexp.MustCompile(`"id": "([A-Z2-7]{26})"`).FindAllStringSubmatch(out, -1) {
			w.command(t, "approve", id[1])
		}
		policy := filepath.Join(filepath.Dir(w.Config), "policy", "policy.rego")
		harness.WriteFile(t, policy, asking+"\n# "+revision+"\n\nallow if input.arguments.n"+strings.ReplaceAll(revision, "-", "")+"\n")
		harness.Eventually(t, soon, "answers of another policy count for nothing", func() bool {
			_, errs, ok := w.command(t, "approve", again)
			return !ok && strings.Contains(errs, "the policy or its reasons have changed")
		})
		if data := object(t, refused(t, other.CallID(t, "7", "tools/call", call), refusal{200, 403, "7", ""}).Data); data["decision"] != "ask" {
			t.Errorf("approved under another policy: %v", data)
		}
		b.Untouched(t)
	})
}

// TestAskRealClients: the official clients ask their users, in both eras.
func TestAskRealClients(t *testing.T) {
	b := harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{servers: server("s", b.URL, "auto"), policy: map[string]string{"policy.rego": asking}})
	w.lists(t, "/mcp/s", harness.R20260728, 4)
	b.Forget()
	t.Run("TypeScript", func(t *testing.T) {
		tools := harness.Tools(t)
		script := filepath.Join(tools.Root, "examples", "quickstart", "client", "client.mjs")
		for _, era := range []string{"modern", "legacy"} {
			for confirm, want := range map[string]string{"yes": "hello", "no": "code 403", "": "mcpgw approve "} {
				args := []string{script, "--url", w.Base + "/mcp/s", "--key", reader, "--era", era}
				if confirm != "" {
					args = append(args, "--confirm", confirm)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				out, err := exec.CommandContext(ctx, tools.Node, append(args, "call", "echo", `{"text":"hello"}`)...).CombinedOutput()
				cancel()
				if !strings.Contains(string(out), want) || (err == nil) != (confirm == "yes") || strings.Contains(string(out), "asked: ") != (confirm != "") {
					t.Errorf("%s, %q: %v\n%s", era, confirm, err, out)
				}
			}
		}
		if n := len(b.Requests("tools/call")); n != 2 {
			t.Errorf("the server was called %d times", n)
		}
		b.Forget()
	})
	t.Run("Go", func(t *testing.T) {
		for _, revision := range []string{harness.R20260728, harness.R20251125} {
			for _, action := range []string{"accept", "decline"} {
				asked := ""
				client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, &mcp.ClientOptions{
					ElicitationHandler: func(_ context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
						asked = r.Params.Message
						return &mcp.ElicitResult{Action: action, Content: map[string]any{"confirm": true}}, nil
					},
				})
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				s, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: w.Base + "/mcp/s", HTTPClient: bearer(reader), DisableStandaloneSSE: true}, &mcp.ClientSessionOptions{ProtocolVersion: revision})
				if err != nil {
					t.Fatal(err)
				}
				got, err := s.CallTool(ctx, &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"text": "hello"}})
				if !strings.Contains(asked, "echo wants a human") || (err == nil) != (action == "accept") {
					t.Errorf("%s, %s: asked %q, got %+v, %v", revision, action, asked, got, err)
				}
				_ = s.Close()
				cancel()
			}
		}
		if n := len(b.Requests("tools/call")); n != 2 {
			t.Errorf("the server was called %d times", n)
		}
	})
}

// bearer is a client that presents a key.
func bearer(key string) *http.Client {
	return &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+key)
		return http.DefaultTransport.RoundTrip(r)
	})}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
