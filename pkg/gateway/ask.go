package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"time"

	"github.com/mcpgw/mcpgw/pkg/approval"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// An ask ruling lets a call pass once a human has confirmed it. Whom the gateway asks:
//
//   - the user of a modern client that can elicit: the answer is an input_required result (2026-07-28, "Multi round-trip requests"), and
//     the client comes back with the user's word. The call then goes by the broker, which sees whether the server takes it through
//     rounds of its own: they are part of the call that was confirmed;
//   - the user of a legacy client that can elicit: the broker asks on the call's own stream, and calls [Exchange.Answered];
//   - else an operator, out of band: the call is refused, and an equal one later passes once.
//
// Whoever was asked, policy rules anew before the call passes, so that a denial wins meanwhile.

// Approvals says who may confirm, and how many may wait.
type Approvals struct {
	User, Operator bool // who may; the user where the client can ask, else the operator
	approval.Limits
}

const (
	// statePrefix begins a requestState of the gateway's own; the question's id follows. A server's state goes through untouched.
	statePrefix = "mcpgw.ask."
	// confirmKey names the gateway's question among inputRequests.
	confirmKey = "mcpgw_confirm"

	// How much of a call a human is shown, in bytes.
	maxShown  = 1000
	maxReason = 300
	maxName   = 256
)

// Answer is a human's word.
type Answer uint8

// The answers. Only Yes lets a call pass.
const (
	NoAnswer  Answer = iota
	Yes              //
	No               // declined, or accepted without a yes
	Cancelled        // dismissed without a choice
	Failed           // the client could not ask after all
)

// ReadAnswer reads the result of elicitation/create, a JSON object.
func ReadAnswer(result []byte) Answer {
	o, err := jsonrpc.Parse(result, jsonrpc.Limits{})
	if err != nil {
		return Failed
	}
	switch action, _ := o.Get("action").Str(); action {
	case "accept":
		if content, err := jsonrpc.Parse(o.Get("content").Raw, jsonrpc.Limits{}); err != nil || content.Get("confirm").Kind() != 't' {
			return No
		}
		return Yes
	case "decline":
		return No
	case "cancel":
		return Cancelled
	}
	return Failed
}

// refusal is what a caller hears of an answer that is no yes.
func (a Answer) refusal(r *policy.Ruling) *fault.Error {
	why := "the user has declined this call"
	switch a {
	case NoAnswer:
		why = "the user has not answered in time"
	case Cancelled:
		why = "the user has dismissed the question without an answer"
	case Failed:
		why = "the client could not ask its user"
	}
	return unconfirmed(why, r, "")
}

// unconfirmed is a refusal because of an ask rule.
func unconfirmed(why string, r *policy.Ruling, id string) *fault.Error {
	return fault.New(fault.Denied, "%s: %s", why, r.Public()).With(askData(r, id))
}

// askData is the data of such a refusal; id is that of a question to an operator.
func askData(r *policy.Ruling, id string) json.RawMessage {
	reasons := r.Reasons
	if reasons == nil {
		reasons = []policy.Reason{}
	}
	b, _ := json.Marshal(struct { // strings alone: it cannot fail
		Decision policy.Effect   `json:"decision"`
		Reasons  []policy.Reason `json:"reasons"`
		Approval string          `json:"approval,omitempty"`
	}{policy.Ask, reasons, id})
	return b
}

// comesBack reads what a modern client brings along that comes back to a call: the state it was given; id is that state where it is the
// gateway's own.
func (x *Exchange) comesBack(m *jsonrpc.Message) (state jsonrpc.Value, id string, back bool) {
	if x.legacy {
		return state, "", false
	}
	state = m.Params.Get("requestState")
	if s, _ := state.Str(); strings.HasPrefix(s, statePrefix) && x.Lane != LaneAuthorize {
		id = s
	}
	return state, id, state.Exists() || m.Params.Get("inputResponses").Exists()
}

// questionOf is the store's id in the gateway's own state.
func questionOf(state string) string { return strings.TrimPrefix(state, statePrefix) }

// round is how often the client came back. What it brings may be of its own making; then it is once.
func (x *Exchange) round(m *jsonrpc.Message, q *policy.Question) int {
	state, id, back := x.comesBack(m)
	if !back {
		return 0
	}
	if s := x.g.opts.Approvals; s != nil {
		return max(1, s.Round(questionOf(id), q.Subject.Key(), callOf(q), stateDigest(state)))
	}
	return 1
}

// stateDigest tells requestStates apart, by their text and not by how JSON writes it; an absent one is a state, too.
func stateDigest(state jsonrpc.Value) [32]byte {
	if s, ok := state.Str(); ok {
		return approval.Digest([]byte("text"), []byte(s))
	}
	return approval.Digest(state.Raw)
}

// callOf is the call that a human confirms.
func callOf(q *policy.Question) [32]byte {
	return approval.Digest([]byte(q.Context.Endpoint), []byte(q.Action), []byte(q.Item.Kind.String()), []byte(q.Item.Server), []byte(q.Item.Name),
		[]byte(q.Item.Digest), []byte(q.URI), q.Arguments)
}

func binding(q *policy.Question, r *policy.Ruling) approval.Binding {
	var asked [][]byte
	for _, why := range r.Reasons {
		asked = append(asked, []byte(why.Message))
	}
	return approval.Binding{Principal: q.Subject.Key(), Call: callOf(q), Revision: r.Revision, Asked: approval.Digest(asked...)}
}

// confirm takes policy's word and, where it is that a human has to confirm, does what comes next: nil and nil let the call go on, a
// verdict puts the question to the client. Any other refusal stays what it is.
func (x *Exchange) confirm(t *target, m *jsonrpc.Message, q *policy.Question, refusal *fault.Error) (Verdict, *fault.Error) {
	r := x.Ruling
	state, id, back := x.comesBack(m)
	switch {
	case r.Err != nil || r.Effect != policy.Allow && r.Effect != policy.Ask:
		return nil, refusal
	case r.Effect == policy.Allow:
		if id == "" || refusal != nil {
			return nil, refusal
		}
		return nil, x.needless(t, m, id)
	case x.row.Class != mcp.Use || m.Method == mcp.MethodComplete:
		return nil, unconfirmed("this needs a human's confirmation, which can be given for calls alone", r, "")
	case x.Lane != LaneAuthorize && !x.Snapshot.Routes.Servers[t.entry.Item.Server]:
		return nil, upstream(t.entry.Item.Server, "unavailable") // nobody is asked in vain
	case x.g.opts.Approvals == nil:
		return nil, refusal
	}
	if f := x.oblige(r.Obligations); f != nil {
		return nil, f // nor for a call that cannot be made as policy wants it
	}
	store, who, b := x.g.opts.Approvals, x.Snapshot.Settings.Approvals, binding(q, r)
	if back && id == "" {
		grant, err := store.Resume(b, stateDigest(state))
		if err == nil {
			return nil, x.granted(t, m, grant)
		}
	}
	if who.User && id != "" {
		return x.answered(t, m, q, id, b)
	}
	cannot := "this client cannot ask (it declares no elicitation)"
	if x.Lane == LaneAuthorize { // which can let a request pass as it came, or refuse it
		cannot = "this gateway cannot ask its user here"
	}
	switch {
	case who.User && x.Lane != LaneAuthorize && x.canElicit(m):
		return x.askUser(t, q, b)
	case !who.Operator:
		return nil, unconfirmed("this call needs its user's confirmation, and "+cannot, r, "")
	}
	about := x.about(t, q)
	question, grant, err := store.Request(b, about, who.Limits)
	switch {
	case err != nil:
		return nil, full(err, r)
	case grant != nil:
		return nil, x.granted(t, m, grant)
	}
	x.Approval, x.ApprovalID = string(question.State), question.ID
	if question.State == approval.Denied {
		return nil, unconfirmed("an operator has denied this call", r, question.ID)
	}
	why := "this call needs an operator's confirmation"
	if who.User {
		why = "this call needs a human's confirmation, and " + cannot
	}
	return nil, unconfirmed(why+"; an operator can give it with `mcpgw approve "+question.ID+"`, then call again with the same arguments", r, question.ID)
}

// full is the fault where nobody else can be asked now.
func full(err error, r *policy.Ruling) *fault.Error {
	f := fault.New(fault.Limited, "this call needs a human's confirmation, and %v; answer them, or try again later", err).With(askData(r, ""))
	f.Header = map[string]string{"retry-after": "30"}
	return f
}

// granted lets the call pass on a human's word.
func (x *Exchange) granted(t *target, m *jsonrpc.Message, grant *approval.Grant) *fault.Error {
	x.grant = grant
	if f := x.strip(t, m); f != nil {
		return f
	}
	if f := x.mark(x.Ruling.Obligations); f != nil {
		return f
	}
	x.Approval, x.ApprovedBy = string(approval.Approved), approver(grant)
	return nil
}

// forgo gives up what was confirmed, or asked, of a call that does not happen.
func (x *Exchange) forgo() {
	x.grant.Done()
	if x.asking != nil {
		x.g.opts.Approvals.Withdraw(x.asking.id, x.asking.binding.Principal)
	}
}

// approver is how logs and spans name who approved.
func approver(g *approval.Grant) string {
	if g.By == "" {
		return "user"
	}
	return "operator:" + g.By
}

// strip takes what is the gateway's own out of a message that goes on to a server.
func (x *Exchange) strip(t *target, m *jsonrpc.Message) *fault.Error {
	if _, id, _ := x.comesBack(m); id == "" {
		return nil
	}
	body := without(m.Body, m.Params, "requestState")
	if answers, err := jsonrpc.Parse(m.Params.Get("inputResponses").Raw, jsonrpc.Limits{Depth: x.Snapshot.Settings.Depth}); err == nil && answers.Get(confirmKey).Exists() {
		stripped, err := jsonrpc.Read(body, jsonrpc.Limits{Depth: x.Snapshot.Settings.Depth})
		if err != nil {
			return fault.From(err)
		}
		if v := stripped.Params.Get("inputResponses"); len(answers.Members) == 1 {
			body = without(body, stripped.Params, "inputResponses")
		} else {
			body = jsonrpc.Splice(body, jsonrpc.Edit{Pos: v.Pos, Len: len(v.Raw), Text: without(answers.Raw, answers, confirmKey)})
		}
	}
	stripped, err := jsonrpc.Read(body, jsonrpc.Limits{Depth: x.Snapshot.Settings.Depth})
	if err != nil {
		return fault.From(err)
	}
	*m, x.stripped = *stripped, true
	t.value = m.Params.Get(x.row.Param)
	return nil
}

// without is body with one member of an object in it taken out, and one comma.
func without(body []byte, o jsonrpc.Object, name string) []byte {
	for n, member := range o.Members {
		if member.Name != name {
			continue
		}
		from, to := o.Pos+1, member.Value.Pos+len(member.Value.Raw)
		if n > 0 { // with the comma before it
			before := o.Members[n-1].Value
			from = before.Pos + len(before.Raw)
		} else if len(o.Members) > 1 { // with the comma behind it
			for body[to] != ',' {
				to++
			}
			to++
		}
		return jsonrpc.Splice(body, jsonrpc.Edit{Pos: from, Len: to - from})
	}
	return body
}

// needless serves an answer to a question that policy does not ask any more. A no still is one.
func (x *Exchange) needless(t *target, m *jsonrpc.Message, id string) *fault.Error {
	if s := x.g.opts.Approvals; s != nil {
		s.Withdraw(questionOf(id), x.Principal.Key())
	}
	if said, f := confirmation(m); f != nil {
		return f
	} else if said != Yes && said != NoAnswer {
		x.Approval = string(approval.Denied)
		return said.refusal(x.Ruling)
	}
	return x.strip(t, m)
}

// confirmation finds the user's word on the gateway's question.
func confirmation(m *jsonrpc.Message) (Answer, *fault.Error) {
	v := m.Params.Get("inputResponses")
	if !v.Exists() {
		return NoAnswer, nil
	}
	o, err := jsonrpc.Parse(v.Raw, jsonrpc.Limits{})
	if err != nil {
		return NoAnswer, fault.New(fault.BadArguments, "params.inputResponses must be an object")
	}
	said := o.Get(confirmKey)
	if !said.Exists() {
		return NoAnswer, nil
	}
	return ReadAnswer(said.Raw), nil
}

// answered serves a client that comes back with an answer to the gateway's question.
func (x *Exchange) answered(t *target, m *jsonrpc.Message, q *policy.Question, id string, b approval.Binding) (Verdict, *fault.Error) {
	said, f := confirmation(m)
	if f != nil {
		return nil, f
	}
	store := x.g.opts.Approvals
	var grant *approval.Grant
	var err error
	if said == NoAnswer {
		if _, err = store.Waiting(questionOf(id), b); err == nil {
			return x.inputRequired(t, q, questionOf(id))
		}
	} else {
		grant, err = store.Answer(questionOf(id), b, said == Yes)
	}
	switch {
	case errors.Is(err, approval.ErrChanged):
		return x.askUser(t, q, b)
	case errors.Is(err, approval.ErrOther):
		return nil, unconfirmed("what was confirmed was another call; call again without requestState", x.Ruling, "")
	case err != nil:
		return nil, unconfirmed("this confirmation was used already, has expired or never was; call again without requestState", x.Ruling, "")
	case said != Yes:
		x.Approval = string(approval.Denied)
		return nil, said.refusal(x.Ruling)
	}
	return nil, x.granted(t, m, grant)
}

// canElicit reports whether the client can put a form to its user (2025-06-18 and later, "Elicitation"): it says so in each request, or
// has said so in initialize. A client that can only show URLs cannot.
func (x *Exchange) canElicit(m *jsonrpc.Message) bool {
	capabilities := m.Meta.Get(mcp.MetaCapabilities).Raw
	if x.legacy {
		if x.Revision == mcp.R20250326 {
			return false
		}
		capabilities = x.Session.ClientCapabilities
	}
	o, err := jsonrpc.Parse(capabilities, jsonrpc.Limits{})
	if err != nil {
		return false
	}
	e, err := jsonrpc.Parse(o.Get("elicitation").Raw, jsonrpc.Limits{})
	return err == nil && (e.Get("form").Kind() == '{' || !e.Get("url").Exists() && !e.Get("form").Exists())
}

// askUser puts the question to the client's own user.
func (x *Exchange) askUser(t *target, q *policy.Question, b approval.Binding) (Verdict, *fault.Error) {
	id, expires, err := x.g.opts.Approvals.Ask(b, x.Snapshot.Settings.Approvals.Limits)
	if err != nil {
		return nil, full(err, x.Ruling)
	}
	x.Approval = string(approval.Pending)
	if !x.legacy {
		return x.inputRequired(t, q, id)
	}
	x.asking = &Asking{
		Params: x.elicitation(t, q), Expires: expires, id: id, binding: b, target: *t, question: q.Clone(), ruling: *x.Ruling,
		asResult: x.Endpoint.DenialsAsResult && x.Method == mcp.MethodToolsCall,
	}
	x.asking.target.value, x.asking.target.entry = jsonrpc.Value{}, nil // what waits for a human holds no body and no catalog
	return nil, nil
}

// inputRequired asks a modern client for its user's word (2026-07-28, "Multi round-trip requests").
func (x *Exchange) inputRequired(t *target, q *policy.Question, id string) (Verdict, *fault.Error) {
	x.Approval = string(approval.Pending)
	b := append([]byte(`{"resultType":"input_required","inputRequests":{"`+confirmKey+`":{"method":"`+mcp.MethodElicit+`","params":`), x.elicitation(t, q)...)
	return x.result(append(b, `}},"requestState":"`+statePrefix+id+`"}`...))
}

// elicitation is the params of elicitation/create: what the call is, and one box to tick. The box is not ticked beforehand.
func (x *Exchange) elicitation(t *target, q *policy.Question) []byte {
	a := x.about(t, q)
	lines := append([]string{"Confirm this call, which policy lets happen only with your yes:"}, a.Reasons...)
	what := a.Action + " " + approval.Plain(t.public, maxName) + " (" + a.Server + ")"
	if a.Arguments != "" {
		what += " with " + a.Arguments
	}
	b := []byte("{")
	if x.Revision != mcp.R20250618 { // which knows no other mode
		b = append(b, `"mode":"form",`...)
	}
	b = jsonrpc.AppendString(append(b, `"message":`...), strings.Join(append(lines, what), "\n"))
	return append(b, `,"requestedSchema":{"type":"object","properties":{"confirm":{"type":"boolean","title":"Confirm",`+
		`"description":"true lets this one call happen"}},"required":["confirm"]}}`...)
}

// about tells a human of a call.
func (x *Exchange) about(t *target, q *policy.Question) approval.About {
	p := q.Subject
	a := approval.About{
		Principal: approval.Plain(p.ID, maxName), Type: p.Type, Tenant: approval.Plain(p.Tenant, maxName), Client: approval.Plain(p.Client, maxName),
		Address: q.Context.ClientAddress, Endpoint: q.Context.Endpoint, Action: q.Action, Server: q.Item.Server, Item: approval.Plain(q.Item.Name, maxName),
		Arguments: approval.Show(q.Arguments, maxShown), Reasons: []string{}, Decision: x.DecisionID,
	}
	if t.uri != "" {
		a.URI = approval.Plain(t.uri, maxShown)
	}
	for n, why := range x.Ruling.Reasons {
		if n == 10 {
			a.Reasons = append(a.Reasons, "…")
			break
		}
		a.Reasons = append(a.Reasons, approval.Plain(why.Message, maxReason))
	}
	return a
}

// Asking is a question that the broker has to put to the user of a legacy client before a call goes on.
type Asking struct {
	Params  []byte // of elicitation/create
	Expires time.Time

	id       string
	binding  approval.Binding
	target   target
	question *policy.Question
	ruling   policy.Ruling
	asResult bool
}

// size is what waits of the client's bytes beside its message.
func (a *Asking) size() int {
	if a == nil {
		return 0
	}
	return len(a.question.Arguments)
}

// Asks is the question that has to be answered before the call goes on; nil where there is none.
func (x *Exchange) Asks() *Asking { return x.asking }

// Answered takes the user's word on Asks. Policy rules anew, in the world as it is now. No bytes: the call goes on in that world, and the
// exchange is pinned to it. Else they are the response that the client gets.
func (x *Exchange) Answered(ctx context.Context, said Answer) []byte {
	f, hidden := x.reconsider(ctx, said)
	x.g.opts.Approvals.Withdraw(x.asking.id, x.asking.binding.Principal)
	if f == nil {
		x.Approval, x.ApprovedBy = string(approval.Approved), "user"
		return nil
	}
	if hidden {
		x.Fault = f // the true reason: for the record alone
		return x.asking.target.unknown().Reply(x.id)
	}
	f = x.identified(f)
	x.Fault = f
	if f.Kind == fault.Denied && x.asking.asResult {
		return jsonrpc.Result(x.id, denialResult(f, x.DecisionID, true))
	}
	return f.Reply(x.id)
}

// reconsider rules anew; hidden says that by now the caller cannot see the item.
func (x *Exchange) reconsider(ctx context.Context, said Answer) (f *fault.Error, hidden bool) {
	a := x.asking
	if said != Yes {
		x.Approval = string(approval.Denied)
		return said.refusal(&a.ruling), false
	}
	s := x.g.Snapshot()
	y := x.now(s)
	if y == nil {
		return fault.New(fault.Denied, "your credential does not count any more, or the endpoint is gone").With(askData(&a.ruling, "")), false
	}
	changed := unconfirmed("the policy or the tool has changed while the user was asked; call again", &a.ruling, "")
	t := a.target
	if y.resolve(&t); t.entry == nil || t.entry.Item.Server != x.Server || t.entry.Item.Digest != a.question.Item.Digest {
		return changed, false
	}
	q := y.asks(a.question.Action)
	q.Item, q.URI, q.Arguments, q.Context.Round = t.entry.Item, a.question.URI, a.question.Arguments, 1
	r := x.g.ruling(ctx, s, q)
	x.Ruling = &r
	switch {
	case r.Err != nil:
		f = fault.New(fault.Internal, "policy could not rule on this call").Wrap(r.Err)
	case r.Effect != policy.Ask && r.Effect != policy.Allow:
		f = fault.New(fault.Denied, "%s", r.Public()).With(denial(&r))
	}
	if f != nil {
		q.Context.Round = 0 // as a list asks
		visible, err := s.Policy.Visible(ctx, q)
		return f, !visible || err != nil
	}
	switch {
	case r.Revision != a.ruling.Revision || !reflect.DeepEqual(r.Obligations, a.ruling.Obligations):
		return changed, false // arguments were held to the types that the other policy reads, and changed as it wanted
	case !s.Routes.Servers[t.entry.Item.Server]:
		return upstream(t.entry.Item.Server, "unavailable"), false
	case r.Effect == policy.Ask:
		grant, err := x.g.opts.Approvals.Answer(a.id, binding(q, &r), true)
		if err != nil {
			return changed, false
		}
		grant.Done() // whatever the server asks, it asks within this call
	}
	if f := x.mark(r.Obligations); f != nil {
		return f, false
	}
	x.Snapshot, x.View, x.Endpoint, x.Entry, x.Principal = s, y.View, y.Endpoint, t.entry, y.Principal
	return nil, false
}

// Ended is told a server's answer to the call as its client sees it, so that the rounds that a server takes a modern client through stay
// part of the call that a human has confirmed. The broker calls it before the client hears the answer, and Dropped when the call is over.
func (x *Exchange) Ended(answer *jsonrpc.Message) {
	if x.grant == nil {
		return
	}
	if result, err := jsonrpc.Parse(answer.Result.Raw, jsonrpc.Limits{Depth: 256}); err == nil {
		if typ, _ := result.Get("resultType").Str(); typ == "input_required" {
			x.grant.Continue(stateDigest(result.Get("requestState")))
			return
		}
	}
	x.grant.Done()
}

// Dropped ends what a human's word was good for. After Ended it does nothing.
func (x *Exchange) Dropped() { x.grant.Done() }
