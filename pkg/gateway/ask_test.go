package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// TestAskModern: the client is asked, comes back with its user's yes, and only that call passes, once.
func TestAskModern(t *testing.T) {
	a := startAsking(t)
	for _, use := range []struct{ method, name, params, says string }{
		{mcp.MethodToolsCall, "s_push", `"name":"s_push","arguments":{"branch":"main", "n":1.0}`, "the push needs a yes"},
		{mcp.MethodPromptsGet, "s_letter", `"name":"s_letter","arguments":{"to":"bob"}`, "the prompt needs a yes"},
		{mcp.MethodResourcesRead, "file:///a", `"uri":"file:///a"`, "the file needs a yes"},
	} {
		asked := a.call("alice", elicits, use.method, use.name, use.params)
		question, _ := asked.reply.Result["inputRequests"].(map[string]any)["mcpgw_confirm"].(map[string]any)
		text, _ := json.Marshal(question)
		if asked.reply.Result["resultType"] != "input_required" || !strings.Contains(string(text), use.says) || question["method"] != "elicitation/create" || asked.Approval != "pending" {
			t.Fatalf("asked with %s", asked.body)
		}
		if use.method == mcp.MethodToolsCall && (!strings.Contains(string(text), `{\"branch\":\"main\",\"n\":1.0}`) || !strings.Contains(string(text), "(s)")) {
			t.Errorf("the user is not told what: %s", text)
		}
		passed := a.call("alice", elicits, use.method, use.name, use.params+brings(asked.state(), yes))
		if passed.to != BackendBroker || passed.Approval != "approved" || passed.ApprovedBy != "user" || passed.Ruling.Effect != "ask" {
			t.Fatalf("%s goes to %q: %s", use.method, passed.to, passed.body)
		}
		if strings.Contains(string(passed.m.Body), "inputResponses") || strings.Contains(string(passed.m.Body), "requestState") || !strings.Contains(string(passed.m.Body), `{`+use.params+`,"_meta"`) {
			t.Errorf("the server gets %s", passed.m.Body)
		}
		again := a.call("alice", elicits, use.method, use.name, use.params+brings(asked.state(), yes))
		if again.to != "" || again.reply.Error.Code != 403 || !strings.Contains(again.reply.Error.Message, "used already") || again.reply.Error.Data.Decision != "ask" {
			t.Errorf("a replayed state: %s", again.body)
		}
		passed.Dropped()
	}
	if n := a.store.Len(); n != 0 {
		t.Errorf("%d are left", n)
	}
}

// TestAskIsBound: nothing but the very call that was confirmed passes on an answer.
func TestAskIsBound(t *testing.T) {
	a := startAsking(t)
	const arguments = `{"branch":"main"}`
	asked := a.push("alice", elicits, arguments, "")
	for name, try := range map[string]func() *sent{
		"another argument":        func() *sent { return a.push("alice", elicits, `{"branch":"prod"}`, brings(asked.state(), yes)) },
		"the same in other bytes": func() *sent { return a.push("alice", elicits, `{"branch": "main"}`, brings(asked.state(), yes)) },
		"no arguments": func() *sent {
			return a.call("alice", elicits, mcp.MethodToolsCall, "s_push", `"name":"s_push"`+brings(asked.state(), yes))
		},
		"another principal": func() *sent { return a.push("bob", elicits, arguments, brings(asked.state(), yes)) },
		"another item": func() *sent {
			return a.call("alice", elicits, mcp.MethodPromptsGet, "s_letter", `"name":"s_letter","arguments":`+arguments+brings(asked.state(), yes))
		},
		"a forged state": func() *sent {
			return a.push("alice", elicits, arguments, brings("mcpgw.ask.AAAAAAAAAAAAAAAAAAAAAAAAAA", yes))
		},
		"an empty id":    func() *sent { return a.push("alice", elicits, arguments, brings("mcpgw.ask.", yes)) },
		"a truncated id": func() *sent { return a.push("alice", elicits, arguments, brings(asked.state()[:20], yes)) },
		"a deny": func() *sent {
			return a.push("alice", elicits, `{"branch":"main","force":true}`, brings(asked.state(), yes))
		},
		"a client that cannot ask": func() *sent { return a.push("bob", `{}`, arguments, brings(asked.state(), yes)) },
	} {
		if s := try(); s.to != "" || s.reply.Error.Code != 403 {
			t.Errorf("%s: goes to %q, %s", name, s.to, s.body)
		}
	}
	for name, more := range map[string]string{
		"answers without a state": `,"inputResponses":{"mcpgw_confirm":` + yes + `}`,
		"a server's state":        brings("of the server", yes),
		"a state that is none":    `,"requestState":5,"inputResponses":{"mcpgw_confirm":` + yes + `}`,
		"an empty state":          brings("", yes),
		"an upper-case prefix":    brings("MCPGW.ASK."+strings.TrimPrefix(asked.state(), "mcpgw.ask."), yes),
	} {
		if s := a.push("alice", elicits, arguments, more); s.to != "" || s.state() == "" || s.state() == asked.state() {
			if s.reply.Error.Code != 429 { // the caller's bound, in the end
				t.Errorf("%s: goes to %q, %s", name, s.to, s.body)
			}
		}
	}
	if s := a.push("alice", elicits, arguments, brings(asked.state(), yes)); s.to != BackendBroker {
		t.Errorf("after all that the right one: %s", s.body)
	}
}

// TestAskAnswers: what a client may bring along instead of a yes.
func TestAskAnswers(t *testing.T) {
	for answer, want := range map[string]string{
		`{"action":"decline"}`:                                           "declined",
		`{"action":"cancel"}`:                                            "dismissed",
		`{"action":"accept"}`:                                            "declined",
		`{"action":"accept","content":{}}`:                               "declined",
		`{"action":"accept","content":{"confirm":false}}`:                "declined",
		`{"action":"accept","content":{"confirm":"true"}}`:               "declined",
		`{"action":"accept","content":{"Confirm":true}}`:                 "declined",
		`{"action":"accept","content":{"confirm":true,"confirm":false}}`: "duplicate",
		`{"action":"Accept","content":{"confirm":true}}`:                 "could not ask",
		`{"content":{"confirm":true}}`:                                   "could not ask",
		`true`:                                                           "could not ask",
		`[]`:                                                             "could not ask",
		`null`:                                                           "could not ask",
	} {
		a := startAsking(t)
		asked := a.push("alice", elicits, "{}", "")
		s := a.push("alice", elicits, "{}", brings(asked.state(), answer))
		if want == "duplicate" { // is no message at all
			if s.to != "" || s.reply.Error.Code != -32600 {
				t.Errorf("%s: %s", answer, s.body)
			}
			continue
		}
		if s.to != "" || s.reply.Error.Code != 403 || !strings.Contains(s.reply.Error.Message, want) || s.Approval != "denied" {
			t.Errorf("%s: %s", answer, s.body)
		}
		if again := a.push("alice", elicits, "{}", brings(asked.state(), yes)); again.to != "" {
			t.Errorf("%s, and a yes after it passes", answer)
		}
	}
	a := startAsking(t)
	asked := a.push("alice", elicits, "{}", "")
	for _, nothing := range []string{`,"requestState":"` + asked.state() + `"`, `,"requestState":"` + asked.state() + `","inputResponses":{}`, `,"requestState":"` + asked.state() + `","inputResponses":{"other":{}}`} {
		if s := a.push("alice", elicits, "{}", nothing); s.state() != asked.state() {
			t.Errorf("without an answer: %s", s.body)
		}
	}
	if s := a.push("alice", elicits, "{}", `,"requestState":"`+asked.state()+`","inputResponses":5`); s.reply.Error.Code != -32602 {
		t.Errorf("answers that are none: %s", s.body)
	}
	a.now = a.now.Add(time.Minute)
	if s := a.push("alice", elicits, "{}", brings(asked.state(), yes)); s.to != "" || s.reply.Error.Code != 403 || !strings.Contains(s.reply.Error.Message, "expired") {
		t.Errorf("too late: %s", s.body)
	}
}

// TestAskWhilePolicyChanges: the ruling of the moment counts.
func TestAskWhilePolicyChanges(t *testing.T) {
	a := startAsking(t)
	asked := a.push("alice", elicits, "{}", "")
	a.swap(askPolicy + "\nask contains \"and another\" if input.resource.name == \"push\"\n")
	again := a.push("alice", elicits, "{}", brings(asked.state(), yes))
	if again.to != "" || again.state() == "" || again.state() == asked.state() || !strings.Contains(again.body, "and another") {
		t.Fatalf("under another policy: %s", again.body)
	}
	a.swap(askPolicy + "\ndeny contains \"not any more\" if input.resource.name == \"push\"\n\nallow if input.arguments.x\n")
	if s := a.push("alice", elicits, "{}", brings(again.state(), yes)); s.to != "" || s.reply.Error.Code == 0 {
		t.Errorf("a deny does not win: %s", s.body)
	}

	a = startAsking(t)
	asked = a.push("alice", elicits, "{}", "")
	a.says = "another tool by now"
	a.swap(askPolicy)
	if s := a.push("alice", elicits, "{}", brings(asked.state(), yes)); s.to != "" || !strings.Contains(s.body, "another call") {
		t.Errorf("a tool that has changed: %q, %s", s.to, s.body)
	}

	a = startAsking(t)
	free := strings.ReplaceAll(askPolicy, `ask contains "the push needs a yes" if`, `allow if`)
	asked = a.push("alice", elicits, "{}", "")
	a.swap(free)
	if s := a.push("alice", elicits, "{}", brings(asked.state(), `{"action":"decline"}`)); s.to != "" || s.reply.Error.Code != 403 {
		t.Errorf("a no that is not asked for any more: %s", s.body)
	}
	a.swap(askPolicy)
	asked = a.push("alice", elicits, "{}", "")
	a.swap(free)
	s := a.push("alice", elicits, "{}", `,"requestState":"`+asked.state()+`","inputResponses":{"a":{ "x":1.0},"mcpgw_confirm":`+yes+`,"b":{}}`)
	if s.to != BackendBroker || strings.Contains(string(s.m.Body), "mcpgw") || !strings.Contains(string(s.m.Body), `,"inputResponses":{"a":{ "x":1.0},"b":{}},"_meta"`) {
		t.Errorf("the server gets %s, the client %s", s.m.Body, s.body)
	}
	if a.store.Len() != 0 {
		t.Error("a question waits that nobody asks any more")
	}
}

func answer(t *testing.T, result string) *jsonrpc.Message {
	t.Helper()
	return message(t, `{"jsonrpc":"2.0","id":1,"result":`+result+`}`)
}

// TestAskAndTheServersRounds: the rounds that a server takes its client through are one call, and only those.
func TestAskAndTheServersRounds(t *testing.T) {
	a := startAsking(t)
	const arguments, other = `{"branch":"main"}`, `{"branch":"prod"}`
	begin := func() {
		t.Helper()
		s := a.push("alice", elicits, arguments, brings(a.push("alice", elicits, arguments, "").state(), yes))
		if s.to != BackendBroker || s.Ruling.Effect != "ask" {
			t.Fatalf("%s", s.body)
		}
		s.Ended(answer(t, `{"resultType":"input_required","inputRequests":{"who":{}},"requestState":"sealed \u00e9"}`))
	}
	back := func(state string) string {
		return `,"inputResponses":{"who":{"action":"accept"}},"requestState":"` + state + `"`
	}
	begin()
	for name, s := range map[string]*sent{
		"another argument":  a.push("alice", elicits, other, back("sealed é")),
		"another state":     a.push("alice", elicits, arguments, back("of my own")),
		"no state":          a.push("alice", elicits, arguments, `,"inputResponses":{"who":{"action":"accept"}}`),
		"another principal": a.push("bob", elicits, arguments, back("sealed é")),
	} {
		if s.to != "" || s.state() == "" {
			t.Errorf("%s: goes to %q, %s", name, s.to, s.body)
		}
	}
	s := a.push("alice", elicits, arguments, back("sealed é"))
	if s.to != BackendBroker || s.ApprovedBy != "user" || !strings.Contains(string(s.m.Body), back("sealed é")[1:]) {
		t.Fatalf("the server's round: %s, on %s", s.body, s.m.Body)
	}
	if again := a.push("alice", elicits, arguments, back("sealed é")); again.to != "" {
		t.Error("a server's state counts twice")
	}
	s.Ended(answer(t, `{"resultType":"complete"}`))
	if again := a.push("alice", elicits, arguments, back("sealed é")); again.to != "" {
		t.Error("a call that is complete goes on")
	}

	a = startAsking(t)
	begin()
	s = a.push("alice", elicits, arguments, back("sealed é"))
	s.Ended(answer(t, `{"resultType":"input_required","inputRequests":{"why":{}}}`))
	if third := a.push("alice", elicits, arguments, `,"inputResponses":{"why":{}}`); third.to != "" || !strings.Contains(third.body, "no third time") {
		t.Errorf("policy does not see the rounds: %q, %s", third.to, third.body)
	}

	a = startAsking(t)
	begin()
	a.now = a.now.Add(time.Minute)
	if late := a.push("alice", elicits, arguments, back("sealed é")); late.to != "" || late.state() == "" {
		t.Errorf("after its expiry: %s", late.body)
	}
	if free := a.call("alice", elicits, mcp.MethodToolsCall, "s_plain", `"name":"s_plain"`+back("sealed é")); free.to != "s/s" || free.Ruling.Effect != "allow" {
		t.Errorf("what nobody has to confirm goes to %q", free.to)
	}
}

// TestAskOperator: a client that cannot ask is told of the operator, and passes once when he says yes.
func TestAskOperator(t *testing.T) {
	a := startAsking(t)
	told := a.push("alice", `{}`, `{"branch":"main","token":"hunter2"}`, "")
	id := told.reply.Error.Data.Approval
	if told.reply.Error.Code != 403 || told.reply.Error.Data.Decision != "ask" || id == "" || told.ApprovalID != id || !strings.Contains(told.reply.Error.Message, "mcpgw approve "+id) ||
		!strings.Contains(told.reply.Error.Message, "cannot ask") || fmt.Sprint(told.reply.Error.Data.Reasons) != "[map[message:the push needs a yes rule:ask]]" {
		t.Fatalf("%s", told.body)
	}
	l := a.store.List()
	if len(l) != 1 || l[0].ID != id || l[0].Principal != "alice" || l[0].Arguments != `{"branch":"main","token":"***"}` || l[0].Decision != told.DecisionID || l[0].Server != "s" || l[0].Item != "push" {
		t.Errorf("%+v", l)
	}
	if again := a.push("alice", `{"elicitation":{"url":{}}}`, `{"branch":"main","token":"hunter2"}`, ""); again.reply.Error.Data.Approval != id {
		t.Errorf("asked twice: %s", again.body)
	}
	if _, err := a.store.Decide(id, "olga", true, a.Snapshot().Policy.Revision()); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*sent{
		"another argument":  a.push("alice", `{}`, `{"branch":"main","token":"hunter3"}`, ""),
		"another principal": a.push("bob", `{}`, `{"branch":"main","token":"hunter2"}`, ""),
		"the id as a state": a.push("alice", `{}`, `{"branch":"x"}`, brings("mcpgw.ask."+id, yes)),
	} {
		if s.to != "" {
			t.Errorf("%s passes", name)
		}
	}
	s := a.push("alice", `{}`, `{"branch":"main","token":"hunter2"}`, "")
	if s.to != BackendBroker || s.ApprovedBy != "operator:olga" || s.Approval != "approved" {
		t.Fatalf("%s", s.body)
	}
	s.Dropped()
	once := a.push("alice", `{}`, `{"branch":"main","token":"hunter2"}`, "")
	if once.to != "" || once.reply.Error.Data.Approval == id {
		t.Errorf("an approval counts twice: %s", once.body)
	}
	if _, err := a.store.Decide(once.reply.Error.Data.Approval, "olga", false, a.Snapshot().Policy.Revision()); err != nil {
		t.Fatal(err)
	}
	if no := a.push("alice", `{}`, `{"branch":"main","token":"hunter2"}`, ""); no.to != "" || !strings.Contains(no.reply.Error.Message, "an operator has denied") || no.Approval != "denied" {
		t.Errorf("%s", no.body)
	}

	a.who.Operator = false
	a.swap(askPolicy)
	if s := a.push("alice", `{}`, `{}`, ""); s.to != "" || s.reply.Error.Data.Approval != "" || !strings.Contains(s.reply.Error.Message, "this client cannot ask") {
		t.Errorf("where the user alone may: %s", s.body)
	}
	a.who.Operator, a.who.User = true, false
	a.swap(askPolicy)
	if s := a.push("bob", elicits, `{}`, brings("mcpgw.ask.AAAAAAAAAAAAAAAAAAAAAAAAAA", yes)); s.to != "" || s.reply.Error.Data.Approval == "" || strings.Contains(s.reply.Error.Message, "cannot ask") {
		t.Errorf("where the operator alone may: %s", s.body)
	}
}

// TestAskRefusals: everything that cannot be confirmed is refused, and says why.
func TestAskRefusals(t *testing.T) {
	a := startAsking(t)
	if s := a.call("alice", elicits, mcp.MethodComplete, "", `"ref":{"type":"ref/prompt","name":"s_letter"},"argument":{"name":"to","value":"b"}`); s.to != "" || s.reply.Error.Code != 403 || !strings.Contains(s.reply.Error.Message, "calls alone") {
		t.Errorf("a completion: %s", s.body)
	}
	if s := a.call("alice", elicits, mcp.MethodToolsCall, "s_hidden", `"name":"s_hidden","arguments":{}`); s.reply.Error.Code != -32602 || strings.Contains(s.body, "needs") {
		t.Errorf("what is hidden: %s", s.body)
	}
	h := a.header("alice", mcp.MethodToolsCall, "s_push")
	told := a.post("/told", h, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s_push","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`)
	if told.reply.Result["isError"] != true || !strings.Contains(told.body, "mcpgw approve ") {
		t.Errorf("as a result: %s", told.body)
	}
	for range 10 {
		a.push("bob", elicits, "{}", "")
	}
	if s := a.push("bob", elicits, "{}", ""); s.to != "" || s.reply.Error.Code != 429 || !strings.Contains(s.reply.Error.Message, "of this caller") {
		t.Errorf("a flood: %s", s.body)
	}
	if s := a.push("alice", elicits, "{}", ""); s.state() == "" {
		t.Errorf("somebody else during the flood: %s", s.body)
	}
	x, _ := a.Head(context.Background(), &Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Header: h})
	if may, _ := x.MayRead(context.Background(), a.Snapshot(), "file:///a"); may {
		t.Error("a stream reads what somebody has to confirm")
	}
	for name, policy := range map[string]string{
		"a policy that breaks":  askPolicy + "\nask contains \"x\" if to_number(input.arguments.n) > 1\n",
		"a change that is none": askPolicy + "\nredact contains {\"pattern\": \"(\", \"with\": \"x\"} if input.resource.name == \"push\"\n",
	} {
		b := startAsking(t)
		b.swap(policy)
		if s := b.push("alice", elicits, `{"n":"no number"}`, ""); s.to != "" || s.reply.Error.Code != -32603 || b.store.Len() != 0 {
			t.Errorf("%s: %s", name, s.body)
		}
	}
	b := startAsking(t)
	b.Swap(func(s Snapshot) Snapshot { s.Routes = Routes{}; return s })
	if s := b.push("alice", elicits, `{}`, ""); s.to != "" || s.reply.Error.Code != -32603 || b.store.Len() != 0 {
		t.Errorf("a server that cannot be reached: %s", s.body)
	}
	none, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	none.Swap(func(Snapshot) Snapshot { return *b.Snapshot() })
	b.Gateway = none
	b.Swap(func(s Snapshot) Snapshot { s.Routes = Routes{Servers: map[string]bool{"s": true}}; return s })
	if s := b.push("alice", elicits, `{}`, ""); s.to != "" || s.reply.Error.Code != 403 {
		t.Errorf("without a store: %s", s.body)
	}
}

// TestAskAuthorize: before another's Envoy nobody can be asked on the spot, but an operator can.
func TestAskAuthorize(t *testing.T) {
	a := startAsking(t)
	a.Swap(func(s Snapshot) Snapshot { s.Routes = Routes{}; return s })
	authorize := func(more string, legacy bool) (*Exchange, Verdict) {
		meta := `,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":` + elicits + `}`
		h := a.header("alice", mcp.MethodToolsCall, "push")
		if legacy {
			meta, h = "", a.header("alice", "", "", "mcp-protocol-version", "2025-11-25")
		}
		return a.Authorize(context.Background(), &Head{Listener: "main", Method: "POST", Path: "/", Authority: "localhost", Header: h},
			[]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"push","arguments":{}`+more+meta+`}}`), "s")
	}
	for _, legacy := range []bool{false, true} {
		_, v := authorize("", legacy)
		body := string(v.(*Reply).Body)
		if !strings.Contains(body, "cannot ask its user here") || !strings.Contains(body, "mcpgw approve ") {
			t.Fatalf("refused with %s", body)
		}
		id := a.store.List()[0].ID
		if _, v := authorize(brings("mcpgw.ask."+id, yes), legacy); fmt.Sprintf("%T", v) != "*gateway.Reply" {
			t.Error("a forged state passes")
		}
		if _, err := a.store.Decide(id, "olga", true, a.Snapshot().Policy.Revision()); err != nil {
			t.Fatal(err)
		}
		if x, v := authorize("", legacy); fmt.Sprintf("%T", v) != "*gateway.Pass" || x.ApprovedBy != "operator:olga" || a.store.Len() != 0 {
			t.Errorf("%T by %q, %d are left", v, x.ApprovedBy, a.store.Len())
		}
		if _, v := authorize("", legacy); fmt.Sprintf("%T", v) != "*gateway.Reply" {
			t.Error("an approval counts twice")
		}
		a = startAsking(t)
		a.Swap(func(s Snapshot) Snapshot { s.Routes = Routes{}; return s })
	}
	a.who.Operator = false
	a.swap(askPolicy)
	if _, v := authorize("", false); !strings.Contains(string(v.(*Reply).Body), "its user's confirmation, and this gateway cannot ask its user here") {
		t.Errorf("refused with %s", v.(*Reply).Body)
	}
}

// TestAskLegacy: the broker is told to ask; what becomes of the call is policy's word of then.
func TestAskLegacy(t *testing.T) {
	a := startAsking(t)
	open := func(revision, capabilities string) fields {
		t.Helper()
		s := a.post("/mcp", a.header("alice", "", "", "x", "y"), fmt.Sprintf(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":%q,"capabilities":%s,"clientInfo":{"name":"t","version":"1"}}}`, revision, capabilities))
		if s.Session == nil {
			t.Fatalf("%s", s.body)
		}
		return a.header("alice", "", "", "mcp-session-id", s.Session.ID, "mcp-protocol-version", revision)
	}
	push := func(h fields, path, arguments string) *sent {
		t.Helper()
		a.id++
		return a.post(path, h, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"s_push","arguments":%s}}`, a.id, arguments))
	}
	for _, c := range []struct {
		revision, capabilities string
		can                    bool
	}{
		{"2025-11-25", elicits, true},
		{"2025-06-18", elicits, true},
		{"2025-11-25", `{"elicitation":{"form":{},"url":{}}}`, true},
		{"2025-03-26", elicits, false},
		{"2025-11-25", `{}`, false},
		{"2025-11-25", `{"elicitation":{"url":{}}}`, false},
		{"2025-11-25", `{"elicitation":true}`, false},
	} {
		s := push(open(c.revision, c.capabilities), "/mcp", "{}")
		if (s.Asks() != nil) != c.can || (s.reply.Error.Data.Approval != "") == c.can || (s.to == BackendBroker) != c.can {
			t.Errorf("%+v: %s", c, s.body)
		}
		if c.can {
			if mode := strings.Contains(string(s.Asks().Params), `"mode":"form"`); mode != (c.revision == "2025-11-25") || !strings.Contains(string(s.Asks().Params), "the push needs a yes") {
				t.Errorf("%+v: asks %s", c, s.Asks().Params)
			}
			if refusal := s.Answered(context.Background(), No); !strings.Contains(string(refusal), "declined") {
				t.Errorf("a no: %s", refusal)
			}
		}
	}
	h := open("2025-11-25", elicits)
	s := push(h, "/mcp", "{}")
	s.Unpin()
	if refusal := s.Answered(context.Background(), Yes); refusal != nil || s.Snapshot == nil || s.Entry == nil || s.ApprovedBy != "user" {
		t.Errorf("a yes: %s", refusal)
	}
	if refusal := s.Answered(context.Background(), Yes); !strings.Contains(string(refusal), "changed") {
		t.Errorf("a yes, twice: %s", refusal)
	}
	for name, c := range map[string]struct {
		policy, want string
		then         func()
	}{
		"denied meanwhile":  {askPolicy + "\ndeny contains \"not any more\" if {\n\tinput.resource.name == \"push\"\n\tinput.arguments == {}\n}\n", "not any more", nil},
		"hidden meanwhile":  {askPolicy + "\ndeny contains \"not any more\" if input.resource.name == \"push\"\n", `"error":{"code":-32602,"message":"unknown tool \"s_push\""}`, nil},
		"another policy":    {askPolicy + "\n# a comment\n\nallow if input.arguments.x\n", "changed", nil},
		"allowed meanwhile": {strings.ReplaceAll(askPolicy, `ask contains "the push needs a yes" if`, `allow if`), "changed", nil},
		"too late":          {"", "changed", func() { a.now = a.now.Add(time.Hour) }},
		"another tool by now": {askPolicy, "changed", func() {
			a.says = "another tool by now"
			a.swap(askPolicy)
		}},
		"server gone": {"", "did not answer", func() {
			a.Swap(func(s Snapshot) Snapshot { s.Routes = Routes{}; return s })
		}},
	} {
		a.swap(askPolicy)
		s := push(h, "/mcp", "{}")
		s.Unpin()
		if c.policy != "" {
			a.swap(c.policy)
		}
		if c.then != nil {
			c.then()
		}
		if refusal := s.Answered(context.Background(), Yes); !strings.Contains(string(refusal), c.want) || !strings.Contains(string(refusal), fmt.Sprintf(`"id":%d,"error"`, a.id)) {
			t.Errorf("%s: %s", name, refusal)
		}
	}
	if a.store.Len() != 0 {
		t.Errorf("%d questions are left", a.store.Len())
	}
	a.swap(askPolicy)
	if s := a.post("/mcp", h, `{"jsonrpc":"2.0","id":900,"method":"resources/subscribe","params":{"uri":"file:///a"}}`); s.to != "" || s.reply.Error.Code != 403 {
		t.Errorf("a subscription: %s", s.body)
	}
	if refusal := push(h, "/mcp", `{"requestState":"mcpgw.ask.X"}`); refusal.Asks() == nil {
		t.Errorf("a legacy client comes back: %s", refusal.body)
	}
}

// TestAskObligations: what a ruling demands besides is met with the yes, and not before.
func TestAskObligations(t *testing.T) {
	demands := askPolicy + "\nlabel contains \"pushed\" if input.resource.name == \"push\"\n\nrewrite contains {\"path\": \"/n\", \"value\": 2} if input.resource.name == \"push\"\n"
	a := startAsking(t)
	a.swap(demands)
	s := a.post("/mcp", a.header("alice", "", "", "x", "y"), `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"t","version":"1"}}}`)
	h := a.header("alice", "", "", "mcp-session-id", s.Session.ID, "mcp-protocol-version", "2025-11-25")
	labels := func() string {
		now, err := a.opts.Sessions.Get(context.Background(), s.Session.ID, s.Session.Owner)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(now.Labels, ",")
	}
	for _, said := range []Answer{No, Yes} {
		call := a.post("/mcp", h, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s_push","arguments":{"n":1}}}`)
		if call.Asks() == nil || !strings.Contains(string(call.Asks().Params), `{\"n\":1}`) || labels() != "" {
			t.Fatalf("asked with %s, marked with %q", call.body, labels())
		}
		call.Unpin()
		if refusal := call.Answered(context.Background(), said); (refusal == nil) != (said == Yes) || !strings.Contains(string(call.m.Body), `{"n":2}`) {
			t.Errorf("%d: %s, the server gets %s", said, refusal, call.m.Body)
		}
	}
	if labels() != "pushed" || a.store.Len() != 0 {
		t.Errorf("marked with %q, %d are left", labels(), a.store.Len())
	}

	asked := a.push("alice", elicits, `{"n":1}`, "") // a modern client, and no place for labels
	if got := a.push("alice", elicits, `{"n":1}`, brings(asked.state(), yes)); got.to != "" || got.reply.Error.Code != -32603 || a.store.Len() != 0 {
		t.Errorf("a label that cannot be kept: %s", got.body)
	}
	a.swap(strings.Replace(demands, "label contains", "other contains", 1))
	asked = a.push("alice", elicits, `{"n":1}`, "")
	if got := a.push("alice", elicits, `{"n":1}`, brings(asked.state(), yes)); got.to != BackendBroker || !strings.Contains(string(got.m.Body), `"arguments":{"n":2},"_meta"`) {
		t.Errorf("rewritten: %s, the server gets %s", got.body, got.m.Body)
	}
	a.swap(strings.Replace(demands, `"/n", "value": 2`, `"/n/x", "value": 2`, 1))
	call := a.post("/mcp", h, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s_push","arguments":{"n":1}}}`)
	if call.to != "" || call.reply.Error.Code != -32603 || a.store.Len() != 1 { // the modern call under way is the one
		t.Errorf("a rewrite that cannot be made: %s, %d are left", call.body, a.store.Len())
	}
}

// TestWithout: a member that is taken out leaves a text that has all the others, byte for byte.
func TestWithout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,3}`), 1, 5, rapid.ID[string]).Draw(t, "names")
		space := rapid.SampledFrom([]string{"", " ", "\n\t"})
		var b strings.Builder
		b.WriteString(`{"x":1,"params":` + space.Draw(t, "s") + "{" + space.Draw(t, "s"))
		for n, name := range names {
			if n > 0 {
				b.WriteString(space.Draw(t, "s") + "," + space.Draw(t, "s"))
			}
			fmt.Fprintf(&b, `"%s"%s:%s%s`, name, space.Draw(t, "s"), space.Draw(t, "s"), rapid.SampledFrom([]string{`1.0`, `"a,b"`, `[{"c":","}]`, `{"d":2}`}).Draw(t, "value"))
		}
		b.WriteString(space.Draw(t, "s") + "}}")
		read := func(text string) (string, jsonrpc.Object) {
			outer, err := jsonrpc.Parse([]byte(text), jsonrpc.Limits{})
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			v := outer.Get("params")
			o, err := jsonrpc.Parse(v.Raw, jsonrpc.Limits{})
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			return string(v.Raw), o
		}
		text, o := read(b.String())
		gone := rapid.SampledFrom(names).Draw(t, "gone")
		left, err := jsonrpc.Parse(without([]byte(text), o, gone), jsonrpc.Limits{})
		if err != nil || len(left.Members) != len(names)-1 || left.Get(gone).Exists() {
			t.Fatalf("%s without %s is %s (%v)", text, gone, without([]byte(text), o, gone), err)
		}
		for _, m := range left.Members {
			if string(m.Value.Raw) != string(o.Get(m.Name).Raw) {
				t.Fatalf("%s becomes %s", o.Get(m.Name).Raw, m.Value.Raw)
			}
		}
	})
}

// TestNobodyTakesWhatWasAsked: a client that leaves before the broker has its call leaves neither question nor yes behind.
func TestNobodyTakesWhatWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startAsking(t)
		leaves := func(h fields, params string) {
			t.Helper()
			x, v := a.Head(t.Context(), &Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Address: "127.0.0.1", Header: h})
			if v == nil {
				v = x.Body([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s_push","arguments":{}` + params + `}}`))
			}
			if f, ok := v.(*Forward); !ok || f.Backend != BackendBroker {
				t.Fatalf("got %+v, %v", v, x.Fault)
			}
		}
		s := a.post("/mcp", a.header("alice", "", "", "x", "y"),
			`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":`+elicits+`,"clientInfo":{"name":"t","version":"1"}}}`)
		leaves(a.header("alice", "", "", "mcp-session-id", s.Session.ID, "mcp-protocol-version", "2025-11-25"), "")
		asked := a.push("alice", elicits, "{}", "")
		leaves(a.header("alice", "tools/call", "s_push"), brings(asked.state(), yes)+
			`,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":`+elicits+`}`)
		if a.store.Len() != 2 || a.Parked() != 2 {
			t.Fatalf("%d wait, %d are parked", a.store.Len(), a.Parked())
		}
		time.Sleep(time.Hour) // for tickets; the store's clock stands still
		synctest.Wait()
		if a.Parked() != 0 || a.store.Len() != 0 {
			t.Errorf("%d are parked, %d are left", a.Parked(), a.store.Len())
		}
	})
}
