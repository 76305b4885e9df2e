package decision

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// RulesOptions say what entries look like.
type RulesOptions struct {
	Modules map[string]string // package system.log, by file name; none: nothing is masked or dropped
	Path    string            // the policy's entry point, as mcpgw/main/ruling
	ID      string            // of this gateway
	Labels  map[string]string // in every entry
}

// Rules turn entries into lines: what OPA's decision log plugin does with the policy's own mask and drop. They hold nothing that has to
// be closed. They are safe for concurrent use, one entry at a time.
type Rules struct {
	path   string
	labels map[string]string
	plugin *logs.Plugin // nil without modules

	// The plugin takes a built-in that fails for an undefined rule, and would write what a mask did not reach. So its rules are asked
	// strictly before.
	mask, drop rego.PreparedEvalQuery

	mu   sync.Mutex // guards both, which the plugin sets while it is asked
	said string     // its last complaint
	kept []byte
}

// maxMask bounds mask and drop of one entry.
const maxMask = time.Second

// NewRules compiles the modules. The error has the compiler's places.
func NewRules(ctx context.Context, o RulesOptions) (*Rules, error) {
	r := &Rules{path: o.Path}
	settings, err := json.Marshal(map[string]any{"labels": o.Labels})
	if err != nil {
		return nil, err
	}
	store := inmem.New() // private: it holds the modules and nothing else
	err = storage.Txn(ctx, store, storage.WriteParams, func(txn storage.Transaction) error {
		for name, text := range o.Modules {
			if err := store.UpsertPolicy(ctx, txn, name, []byte(text)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	l := complaints{r}
	m, err := plugins.New(settings, o.ID, store, plugins.Logger(l), plugins.ConsoleLogger(l))
	if err != nil {
		return nil, err
	}
	defer m.Stop(ctx) // its background keeps the plugins' status, which nobody asks for
	r.labels = m.Labels()
	if len(o.Modules) == 0 {
		return r, nil
	}
	if err := m.Init(ctx); err != nil {
		return nil, err
	}
	const name = "mcpgw"
	conf, err := logs.ParseConfig([]byte(`{"plugin":"`+name+`"}`), nil, []string{name})
	if err != nil {
		return nil, err
	}
	r.plugin = logs.New(conf, m)
	m.Register(name, taken{r})
	for path, q := range map[string]*rego.PreparedEvalQuery{"data.system.log.mask": &r.mask, "data.system.log.drop": &r.drop} {
		*q, err = rego.New(rego.Query(path), rego.Compiler(m.GetCompiler()), rego.Store(store), rego.StrictBuiltinErrors(true)).PrepareForEval(ctx)
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// line is an entry as one line of JSON, masked; nil where a drop rule leaves it out. With an error nothing may be written. The error
// holds nothing of the entry.
func (r *Rules) line(e *Entry) (line []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			line, err = nil, fmt.Errorf("writing an entry panicked: %T", p)
		}
	}()
	q, d := e.Question, &e.Ruling
	input, err := questionText(q)
	if err != nil {
		return nil, errors.New("a question is no JSON")
	}
	ruled, err := json.Marshal(resultOf(d))
	if err != nil {
		return nil, errors.New("a ruling is no JSON")
	}
	took := map[string]any{"timer_server_handler_ns": d.Duration.Nanoseconds()}
	if d.Cached {
		took["counter_server_query_cache_hit"] = 1
	}
	event := logs.EventV1{
		Labels: r.labels, DecisionID: q.Context.RequestID, Bundles: map[string]logs.BundleInfoV1{"policy": {Revision: d.Revision}}, Path: r.path,
		Timestamp: q.Context.Time, Metrics: took,
	}
	if r.plugin == nil {
		event.Input, event.Result = ptr[any](json.RawMessage(input)), ptr[any](json.RawMessage(ruled))
		return encode(&event)
	}
	if event.Input, err = decode(input); err == nil {
		event.Result, err = decode(ruled)
	}
	if err != nil {
		return nil, errors.New("an entry cannot be read back")
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxMask)
	defer cancel()
	if err := r.strict(ctx, &event); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said, r.kept = "", nil
	err = r.plugin.Log(ctx, &server.Info{
		DecisionID: event.DecisionID, Bundles: map[string]server.BundleInfo{"policy": {Revision: d.Revision}}, Path: event.Path,
		Timestamp: event.Timestamp, Input: event.Input, Results: event.Result, Metrics: measured{metrics.NoOp(), took},
	})
	switch {
	case err != nil:
		return nil, errors.New("an entry could not be masked")
	case r.said != "":
		return nil, errors.New(r.said)
	}
	return r.kept, nil
}

// strict asks mask and drop with every fault an error, and holds mask to what the plugin can reach.
func (r *Rules) strict(ctx context.Context, event *logs.EventV1) error {
	input, err := event.AST()
	if err != nil {
		return errors.New("an entry could not be read by its mask")
	}
	if _, err := r.drop.Eval(ctx, rego.EvalParsedInput(input)); err != nil {
		return placed("drop", err)
	}
	rs, err := r.mask.Eval(ctx, rego.EvalParsedInput(input))
	if err != nil {
		return placed("mask", err)
	}
	if len(rs) == 0 {
		return nil
	}
	paths, _ := rs[0].Expressions[0].Value.([]any)
	for _, p := range paths {
		if m, ok := p.(map[string]any); ok {
			p = m["path"]
		}
		path, ok := p.(string)
		if !ok {
			return errors.New("mask gives something that is neither a path nor {op, path, value}")
		}
		for part := range strings.SplitSeq(path, "/") {
			if url.PathEscape(part) != part {
				return errors.New("mask names a member with letters that OPA's masks do not reach; name the object that holds it")
			}
		}
	}
	return nil
}

// placed says where a rule failed, without the values in the message.
func placed(rule string, err error) error {
	if e := (*topdown.Error)(nil); errors.As(err, &e) && e.Location != nil {
		return fmt.Errorf("%s fails with %s at %s:%d", rule, e.Code, e.Location.File, e.Location.Row)
	}
	return fmt.Errorf("%s fails", rule)
}

func ptr[T any](v T) *T { return &v }

// decode keeps the digits of numbers.
func decode(text []byte) (*any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	return &v, d.Decode(&v)
}

func encode(event *logs.EventV1) ([]byte, error) {
	b, err := json.Marshal(event)
	if err != nil {
		return nil, errors.New("an entry is no JSON")
	}
	return append(b, '\n'), nil
}

// measured are metrics that were taken elsewhere.
type measured struct {
	metrics.Metrics
	all map[string]any
}

func (m measured) All() map[string]any { return m.all }

// taken is where OPA's plugin puts what it has masked.
type taken struct{ r *Rules }

func (t taken) Start(context.Context) error      { return nil }
func (t taken) Stop(context.Context)             {}
func (t taken) Reconfigure(context.Context, any) {}

// Log is called from within the plugin's own, so r.mu is held.
func (t taken) Log(_ context.Context, event logs.EventV1) (err error) {
	t.r.kept, err = encode(&event)
	return err
}

// complaints hears what OPA's plugin logs. Its errors are the only sign of a mask that failed; they are not repeated, for they hold values.
type complaints struct{ r *Rules }

func (c complaints) Debug(string, ...any) {}
func (c complaints) Info(string, ...any)  {}
func (c complaints) Warn(string, ...any)  {}
func (c complaints) Error(string, ...any) {
	c.r.said = "mask or drop gives what OPA's decision log does not take"
}
func (c complaints) WithFields(map[string]any) logging.Logger { return c }
func (c complaints) GetLevel() logging.Level                  { return logging.Error }
func (c complaints) SetLevel(logging.Level)                   {}
