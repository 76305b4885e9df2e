package telemetry

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics is the gateway's own registry, for a Prometheus server to scrape. All methods may be called from many goroutines and never
// block. Label values are bounded: methods, kinds and reasons come from closed sets; of servers and items the first few thousand get
// series of their own, for a server that keeps renaming its tools must not grow our memory, and all others count as "_other".
type Metrics struct {
	registry *prometheus.Registry
	known    names

	decisions, refusals, body, outcomes, lost, shadow *prometheus.CounterVec
	exchange, policy, operation                       *prometheus.HistogramVec
	items                                             *prometheus.GaugeVec
	degraded, built, reload, reloaded                 prometheus.Gauge
}

// Bounds in seconds. The conventions' begin at 10 ms; our own work takes a hundredth of that.
func operationBounds() []float64 {
	return []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300}
}

func ownBounds() []float64 {
	return []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 0.1, 1}
}

// NewMetrics makes a registry with all series of the gateway and those of the Go runtime and the process.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, bounds []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: bounds}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &Metrics{
		registry:  prometheus.NewRegistry(),
		decisions: counter(metricDecisions, "Rulings of policy on calls, reads, gets and completions.", "decision", "kind", "server", "tool", "method"),
		refusals:  counter(metricRefusals, "Exchanges refused, by the kind of fault.", "reason"),
		body:      counter(metricBody, "Bytes of request bodies read."),
		exchange:  histogram(metricExchange, "Time from the head of a request to the gateway's verdict.", ownBounds(), "lane", "method"),
		policy:    histogram(metricPolicy, "Time of one ruling.", ownBounds(), "cached"),
		operation: histogram(metricOperation, "Time of an exchange as Envoy saw it, from the first byte of the request to the last of the answer.", operationBounds(),
			"mcp_method_name", "gen_ai_tool_name", "mcpgw_server", "error_type"),
		items:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: metricItems, Help: "Items in the catalog."}, []string{"kind"}),
		degraded: gauge(metricDegraded, "Servers whose part of the catalog is old or missing."),
		built:    gauge(metricCatalogBuilt, "When the catalog in force was built."),
		reload:   gauge(metricReload, "Whether the last attempt to load the configuration succeeded."),
		reloaded: gauge(metricReloadTime, "When the configuration in force was loaded."),
		outcomes: counter(metricOutcomes, "Ends of exchanges as Envoy saw them; unknown = decided, but never heard of again.", "outcome", "method", "server"),
		shadow:   counter(metricShadow, "Rulings that the shadow policy would change, by effect and obligations of both.", "action", "server", "item", "live", "shadow"),
		lost:     counter(metricLogLost, "Access-log entries and decisions that could not be joined.", "reason"),
	}
	m.registry.MustRegister(m.decisions, m.refusals, m.body, m.exchange, m.policy, m.operation, m.items, m.degraded, m.built, m.reload, m.reloaded,
		m.outcomes, m.lost, m.shadow, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the registry in Prometheus' text formats.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// Sources are counts that their owners keep, asked at each scrape; nil ones are left out. They are called concurrently.
type Sources struct {
	InFlight      func() int64  // exchanges in the walk
	Broken        func() uint64 // ext_proc streams that ended before their last reply
	BodyBytes     func() int64  // of bodies in flight
	Sessions      func() int
	Streams       func() int // open streams of clients
	Parked        func() int // exchanges that wait for the broker
	SpansLost     func() int64
	AccessLogLost func() uint64 // entries that found the queue full

	DecisionLogLost func() uint64 // entries that some output of the decision log did not get
	ShadowCompared  func() uint64 // rulings that the shadow policy was asked about
	ShadowFailed    func() uint64 // of these, those on which it could not rule
	ShadowSkipped   func() uint64 // rulings that it was not asked about: too many waited
	ShadowLoaded    func() int    // 1 if the shadow that is configured is compared, 0 if it could not be loaded, -1 if there is none

	Restarts      func() uint64 // of stdio children, all together
	EnvoyRestarts func() uint64
	Envoys        func() int    // connected for their configuration
	Rejected      func() uint64 // answers in which an Envoy refused configuration

	Bundles func() map[string]BundleCount // of bundles that are fetched, by the policy's name: live, shadow
}

// Watch adds sources. It is called once, before the first scrape.
func (m *Metrics) Watch(s Sources) {
	gauge(m.registry, metricInFlight, "Exchanges in the walk.", s.InFlight)
	gauge(m.registry, metricBodyInFlight, "Bytes of request bodies held.", s.BodyBytes)
	gauge(m.registry, metricSessions, "Sessions of legacy clients.", s.Sessions)
	gauge(m.registry, metricStreams, "Open streams of clients.", s.Streams)
	gauge(m.registry, metricParked, "Exchanges that wait for the broker.", s.Parked)
	total(m.registry, metricBroken, "ext_proc streams that ended before their last reply.", s.Broken)
	total(m.registry, metricSpansLost, "Spans that no collector took.", s.SpansLost)
	total(m.registry, metricStdioRestarts, "Restarts of child processes that serve MCP over stdio.", s.Restarts)
	total(m.registry, metricEnvoyRestarts, "Restarts of the child Envoy.", s.EnvoyRestarts)
	gauge(m.registry, metricEnvoys, "Envoys that are connected for their configuration.", s.Envoys)
	total(m.registry, metricRejected, "Configuration that an Envoy refused.", s.Rejected)
	total(m.registry, metricDecisionLost, "Decision-log entries that an output did not get.", s.DecisionLogLost)
	total(m.registry, metricShadowAsked, "Rulings compared with the shadow policy's.", s.ShadowCompared)
	total(m.registry, metricShadowFailed, "Rulings on which the shadow policy failed.", s.ShadowFailed)
	total(m.registry, metricShadowSkipped, "Rulings not compared with the shadow policy's, because too many waited.", s.ShadowSkipped)
	gauge(m.registry, metricShadowLoaded, "1 = the configured shadow policy is compared, 0 = it could not be loaded, -1 = none is configured.", s.ShadowLoaded)
	total(m.registry, metricLogOverflow, "Access-log entries that found the queue full.", s.AccessLogLost)
	if s.Bundles != nil {
		m.registry.MustRegister(newBundles(s.Bundles))
	}
}

func gauge[N int | int64 | uint64](r *prometheus.Registry, name, help string, f func() N) {
	if f != nil {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
	}
}

func total[N int | int64 | uint64](r *prometheus.Registry, name, help string, f func() N) {
	if f != nil {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
	}
}

// names bounds label values. It lets a name through while there is room, and remembers those it let through.
type names struct {
	mu      sync.RWMutex // guards both
	servers map[string]struct{}
	items   map[[2]string]struct{}
}

func (n *names) label(server, item string) (string, string) {
	n.mu.RLock()
	_, s := n.servers[server]
	_, i := n.items[[2]string{server, item}]
	n.mu.RUnlock()
	if (s || server == "") && (i || item == "") {
		return server, item
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.servers == nil {
		n.servers, n.items = map[string]struct{}{}, map[[2]string]struct{}{}
	}
	if _, ok := n.servers[server]; !ok && server != "" {
		if len(n.servers) >= maxLabelledServers {
			return labelOther, labelOther
		}
		n.servers[server] = struct{}{}
	}
	if _, ok := n.items[[2]string{server, item}]; !ok && item != "" {
		if len(n.items) >= maxLabelledItems {
			return server, labelOther
		}
		n.items[[2]string{server, item}] = struct{}{}
	}
	return server, item
}

// tool is an exchange's item where it is one with a name: URIs of resources are too many for labels.
func tool(kind, item string) string {
	if kind == "tool" || kind == "prompt" {
		return item
	}
	return ""
}

func orOther(s string) string {
	if s == "" {
		return labelOther
	}
	return s
}

// Observe counts an exchange.
func (m *Metrics) Observe(e *Exchange) {
	m.exchange.WithLabelValues(e.Lane, orOther(e.Method)).Observe(e.Duration.Seconds())
	if e.BodyBytes > 0 {
		m.body.WithLabelValues().Add(float64(e.BodyBytes))
	}
	if e.Refusal != "" {
		m.refusals.WithLabelValues(e.Refusal).Inc()
	}
	if e.Effect != "" {
		server, item := m.known.label(e.Server, tool(e.Kind, e.Item))
		m.decisions.WithLabelValues(e.Effect, e.Kind, server, item, orOther(e.Method)).Inc()
		cached := "false"
		if e.Cached {
			cached = "true"
		}
		m.policy.WithLabelValues(cached).Observe(e.PolicyDuration.Seconds())
	}
}

// Outcome is how an exchange ended, as the access log tells. The names are those of the decision that it was joined with.
type Outcome struct {
	Method, Server, Kind, Item string
	Outcome                    string // of a closed set
	Code                       int    // the server's JSON-RPC error code, 0 = none
	Duration                   time.Duration
}

// Outcome counts an exchange's end. An unknown end has no duration.
func (m *Metrics) Outcome(o Outcome) {
	server, item := m.known.label(o.Server, tool(o.Kind, o.Item))
	m.outcomes.WithLabelValues(o.Outcome, orOther(o.Method), server).Inc()
	if o.Outcome == unknownOutcome {
		m.lost.WithLabelValues("no_outcome").Inc()
		return
	}
	m.operation.WithLabelValues(orOther(o.Method), item, server, errorType(o)).Observe(o.Duration.Seconds())
}

// errorType is the label of an end that was none of success. A server chooses its codes freely, so only the specification's get a
// label each.
func errorType(o Outcome) string {
	switch {
	case o.Outcome == "ok" || o.Outcome == "answered":
		return ""
	case o.Outcome != "rpc_error":
		return o.Outcome
	}
	switch o.Code {
	case -32700:
		return "-32700"
	case -32600:
		return "-32600"
	case -32601:
		return "-32601"
	case -32602:
		return "-32602"
	case -32603:
		return "-32603"
	case -32002:
		return "-32002"
	}
	return labelOther
}

// Shadow counts a ruling that the shadow policy would change. live and shadow are effects with the kinds of their obligations.
func (m *Metrics) Shadow(action, server, kind, item, live, shadow string) {
	server, item = m.known.label(server, tool(kind, item))
	m.shadow.WithLabelValues(orOther(action), server, item, live, shadow).Inc()
}

// Unjoined counts a loss of the access log: an entry without a decision, or a decision pushed out before its entry came.
func (m *Metrics) Unjoined(reason string) { m.lost.WithLabelValues(reason).Inc() }

// Catalog shows the catalog in force: its items by kind, how many servers are degraded, when it was built.
func (m *Metrics) Catalog(items map[string]int, degraded int, built time.Time) {
	for kind, n := range items {
		m.items.WithLabelValues(kind).Set(float64(n))
	}
	m.degraded.Set(float64(degraded))
	m.built.Set(float64(built.UnixMilli()) / 1000)
}

// Reload shows whether the last attempt to load the configuration succeeded, and if so when.
func (m *Metrics) Reload(ok bool, at time.Time) {
	if !ok {
		m.reload.Set(0)
		return
	}
	m.reload.Set(1)
	m.reloaded.Set(float64(at.UnixMilli()) / 1000)
}
