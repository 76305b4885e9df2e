package xds

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// World is everything that Envoy has to know, in mcpgw's words. It is plain data: equal worlds render to
// equal bytes, whatever the order in which maps were filled. Zero durations and sizes mean the defaults
// named at each field.
type World struct {
	Node        Node
	Listeners   []Listener
	Servers     []Server
	Sockets     Sockets
	EgressToken string // what the broker must send in x-mcpgw-egress-token; hexadecimal, at least 32 digits
	Limits      Limits
	Telemetry   Telemetry
	Overload    Overload
}

// Node names this Envoy in its own telemetry and towards the xDS server. Default "mcpgw" for both.
type Node struct{ ID, Cluster string }

// Listener is one address that clients connect to.
type Listener struct {
	Name        string // grammar of server names; sent to ext_proc as gRPC metadata x-mcpgw-listener
	Address     string // "ip:port" (port 0: the kernel chooses) or the absolute path of a unix socket
	TLS         *ServerTLS
	TrustedHops int         // proxies in front whose X-Forwarded-For is believed
	ClientTrace ClientTrace // "" is ClientTraceContinue
}

// ClientTrace says what becomes of a client's traceparent.
type ClientTrace string

// A trusted client's trace goes on, its sampling flag included; for others a new trace begins, and the client's
// travels to ext_proc as x-mcpgw-client-traceparent.
const (
	ClientTraceContinue ClientTrace = "continue"
	ClientTraceLink     ClientTrace = "link"
)

// ServerTLS is a listener's certificate. Over xDS it travels as a secret, so a new one drains nothing.
type ServerTLS struct {
	CertFile, KeyFile string // read by Envoy, which watches their folder and reads again when a file is moved into it
	Cert, Key         []byte // PEM; where set, sent by xDS instead of the file names (Static always writes the names)
}

// Server is one MCP server as Envoy reaches it.
type Server struct {
	Name        string // [a-z0-9][a-z0-9-]{0,31}
	URL         string // http or https, host, optional port, path; the host is what the server sees as Host
	Socket      string // absolute path of a unix socket to connect to instead of the URL's host
	TLS         ClientTLS
	HTTP2       bool // speak HTTP/2 to it; default HTTP/1.1
	Credentials []Credential
	// ForwardHeaders are client headers that may reach it although Envoy removes them by default, such as baggage
	// or x-forwarded-for. ext_proc keeps the list of all others, and credentials never travel, named here or not.
	ForwardHeaders []string
	CallIdle       time.Duration // longest silence of a call, default 5 min
	CallTotal      time.Duration // longest call in all, default 30 min
	Sticky         bool          // keep a session on the host that began it, where the name has several addresses; never retried
}

// ClientTLS says how a server's certificate is verified, for an https URL. It always is.
type ClientTLS struct {
	CAFile                        string // PEM bundle; default SystemCA()
	ServerName                    string // name the certificate must carry and SNI; default the URL's host
	ClientCertFile, ClientKeyFile string // certificate to present; none if empty
}

// Credential is one secret header that every request to a server carries. It replaces a header of the same
// name. Exactly one of Value, File and Env is set: File and Env are read by Envoy itself and leave only the
// reference in the configuration.
type Credential struct {
	Header string
	Prefix string // such as "Bearer "
	Value  string
	File   string
	Env    string
}

// Sockets are the absolute paths of the unix sockets, in a directory of mode 0700.
type Sockets struct {
	GRPC   string // mcpgw serves ext_proc, access log and xDS here
	Broker string // mcpgw serves the slow lane here
	Egress string // Envoy listens here for the broker
	Admin  string // Envoy's admin interface; it shows routes, and so the egress token
}

// Limits bound what one request may cost.
type Limits struct {
	Body     int64         // bytes of a request body, and of a response that the guard holds; default 4 MiB
	Upload   time.Duration // a request must be complete after this; default 30 s
	Decision time.Duration // one answer of ext_proc; default 3 s
}

// Telemetry switches what Envoy reports; each part costs CPU of its own.
type Telemetry struct {
	OTLP      string  // collector for spans: "host:port" or the absolute path of a unix socket; "" = no tracing at all
	OTLPTLS   bool    // verify and encrypt towards it
	OTLPCA    string  // PEM bundle, default SystemCA()
	Sampling  float64 // percent of the traces that begin here, 0 to 100
	AccessLog bool    // one record a request to mcpgw over gRPC
	Guard     bool    // the response script: outcomes, and errors of servers as JSON-RPC. Off only to measure
}

// Overload refuses work before the machine suffers. Zero values switch a bound off.
type Overload struct {
	MaxHeap        uint64 // bytes of Envoy's heap: memory is given back from 90 %, requests refused from 95 %, connections from 98 %
	MaxConnections int64  // connections of clients, all listeners together
}

// Names of clusters and routes. Those of servers carry ServerPrefix, so none can take one of the others.
const (
	ServerPrefix = "s/"
	Broker       = "broker"
	refuse       = "refuse" // never has an endpoint: where a POST stands until ext_proc has routed it

	clusterXDS     = "mcpgw_xds"
	clusterExtProc = "mcpgw_extproc"
	clusterALS     = "mcpgw_als"
	clusterOTLP    = "mcpgw_otlp"
)

// Headers between mcpgw and Envoy. A client's own are removed before anything reads them.
const (
	HeaderBackend     = "x-mcpgw-backend"
	HeaderExchange    = "x-mcpgw-exchange"
	HeaderEgressToken = "x-mcpgw-egress-token"
	HeaderDecision    = "x-mcpgw-decision-id"
	HeaderLocal       = "x-mcpgw-local"
	HeaderClientTrace = "x-mcpgw-client-traceparent"
)

// Names that Envoy and mcpgw's gRPC services share.
const (
	// MetadataListener is the gRPC metadata key under which each ext_proc stream names its listener.
	MetadataListener = "x-mcpgw-listener"
	// MetadataAddress is that for the client's IP address.
	MetadataAddress = "x-mcpgw-address"
	// Metadata is the dynamic metadata namespace that ext_proc writes; Outcomes is the one the response script writes.
	Metadata = "mcpgw"
	Outcomes = "mcpgw_resp"

	// LogIngress and LogEgress tell the two access logs apart.
	LogIngress = "mcpgw_ingress"
	LogEgress  = "mcpgw_egress"

	// HealthPath is answered by Envoy on every ingress listener: 200, and 503 while draining.
	HealthPath = "/healthz"
)

// Backend is the value of HeaderBackend that routes to the named server.
func Backend(server string) string { return ServerPrefix + server }

var (
	nameGrammar  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	tokenGrammar = regexp.MustCompile(`^[0-9a-f]{32,128}$`)
	fieldGrammar = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")
)

// withDefaults returns the world with every default written out.
func (w World) withDefaults() World {
	or(&w.Node.ID, "mcpgw")
	or(&w.Node.Cluster, "mcpgw")
	or(&w.Limits.Body, 4<<20)
	or(&w.Limits.Upload, 30*time.Second)
	or(&w.Limits.Decision, 3*time.Second)
	w.Listeners, w.Servers = slices.Clone(w.Listeners), slices.Clone(w.Servers)
	for i := range w.Servers {
		or(&w.Servers[i].CallIdle, 5*time.Minute)
		or(&w.Servers[i].CallTotal, 30*time.Minute)
	}
	slices.SortFunc(w.Listeners, func(a, b Listener) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(w.Servers, func(a, b Server) int { return strings.Compare(a.Name, b.Name) })
	return w
}

func or[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// check reports every fault of the world at once.
func (w World) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, s := range []struct{ what, path string }{
		{"gRPC", w.Sockets.GRPC}, {"broker", w.Sockets.Broker}, {"egress", w.Sockets.Egress}, {"admin", w.Sockets.Admin},
	} {
		if err := checkSocket(s.path); err != nil {
			bad("%s socket: %w", s.what, err)
		}
	}
	if !tokenGrammar.MatchString(w.EgressToken) {
		bad("egress token: want 32 to 128 lower-case hexadecimal digits")
	}
	if w.Limits.Body < 1 || w.Limits.Body > 1<<30 {
		bad("body limit %d: want 1 byte to 1 GiB", w.Limits.Body)
	}
	if w.Limits.Upload < 0 || w.Limits.Decision < 0 {
		bad("time limits must not be negative")
	}
	if s := w.Telemetry.Sampling; !(s >= 0 && s <= 100) {
		bad("sampling %v: want 0 to 100 percent", s)
	}
	if o := w.Telemetry.OTLP; o != "" && !filepath.IsAbs(o) {
		if _, err := hostPort(o); err != nil {
			bad("collector %q: %w", o, err)
		}
	}
	names := map[string]bool{}
	for _, l := range w.Listeners {
		if !nameGrammar.MatchString(l.Name) {
			bad("listener %q: a name matches %s", l.Name, nameGrammar)
		}
		if names[l.Name] {
			bad("listener %q stands twice", l.Name)
		}
		names[l.Name] = true
		if filepath.IsAbs(l.Address) {
			if err := checkSocket(l.Address); err != nil {
				bad("listener %q: %w", l.Name, err)
			}
		} else if _, err := netip.ParseAddrPort(l.Address); err != nil {
			bad("listener %q: address %q: want ip:port or an absolute path", l.Name, l.Address)
		}
		if t := l.TLS; t != nil && (t.CertFile == "" || t.KeyFile == "") && (len(t.Cert) == 0 || len(t.Key) == 0) {
			bad("listener %q: TLS needs a certificate and a key", l.Name)
		}
		if l.TrustedHops < 0 || l.TrustedHops > 100 {
			bad("listener %q: trusted hops %d: want 0 to 100", l.Name, l.TrustedHops)
		}
		if l.ClientTrace != "" && l.ClientTrace != ClientTraceContinue && l.ClientTrace != ClientTraceLink {
			bad("listener %q: client trace %q: want continue or link", l.Name, l.ClientTrace)
		}
	}
	clear(names)
	for _, s := range w.Servers {
		if !nameGrammar.MatchString(s.Name) {
			bad("server %q: a name matches %s", s.Name, nameGrammar)
		}
		if names[s.Name] {
			bad("server %q stands twice", s.Name)
		}
		names[s.Name] = true
		if err := s.check(); err != nil {
			bad("server %q: %w", s.Name, err)
		}
	}
	return errors.Join(errs...)
}

func (s Server) check() error {
	u, err := s.target()
	if err != nil {
		return err
	}
	if s.Socket != "" {
		if err := checkSocket(s.Socket); err != nil {
			return err
		}
	}
	if (s.TLS.ClientCertFile == "") != (s.TLS.ClientKeyFile == "") {
		return errors.New("a client certificate and its key come together")
	}
	if u.tls && s.TLS.CAFile == "" && SystemCA() == "" {
		return errors.New("no CA bundle found on this system: name one")
	}
	if s.CallIdle < 0 || s.CallTotal < 0 {
		return errors.New("time limits must not be negative")
	}
	seen := map[string]bool{}
	for _, c := range s.Credentials {
		h := strings.ToLower(c.Header)
		if !fieldGrammar.MatchString(h) || strings.HasPrefix(h, "x-mcpgw-") || strings.HasPrefix(h, "x-envoy-") || h == "host" {
			return fmt.Errorf("credential header %q: not a header that can be set", c.Header)
		}
		if seen[h] {
			return fmt.Errorf("credential header %q stands twice", c.Header)
		}
		seen[h] = true
		set := 0
		for _, v := range []string{c.Value, c.File, c.Env} {
			if v != "" {
				set++
			}
		}
		if set != 1 {
			return fmt.Errorf("credential header %q: exactly one of value, file and environment variable", c.Header)
		}
		if strings.ContainsAny(c.Prefix+c.Value, "\x00\r\n") {
			return fmt.Errorf("credential header %q: holds a line break", c.Header)
		}
	}
	return nil
}

// target is a server's URL taken apart.
type target struct {
	tls  bool
	host string // without port and brackets
	port uint32
	sees string // Host header
	path string
}

func (s Server) target() (target, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return target{}, errors.New("its URL cannot be read")
	}
	t := target{host: u.Hostname(), sees: u.Host, path: u.EscapedPath()}
	switch u.Scheme {
	case "http":
		t.port = 80
	case "https":
		t.port, t.tls = 443, true
	default:
		return target{}, fmt.Errorf("URL scheme %q: want http or https", u.Scheme)
	}
	if t.host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return target{}, errors.New("its URL needs a host, and takes no user, query or fragment")
	}
	if u.Port() != "" {
		hp, err := hostPort(u.Host)
		if err != nil {
			return target{}, err
		}
		t.port = hp.port
	}
	or(&t.path, "/")
	return t, nil
}

type endpoint struct {
	host string
	port uint32
}

func hostPort(s string) (endpoint, error) {
	h, p, err := net.SplitHostPort(s)
	if err != nil || h == "" {
		return endpoint{}, errors.New("want host:port")
	}
	var port uint32
	if _, err := fmt.Sscanf(p, "%d", &port); err != nil || port == 0 || port > 65535 || fmt.Sprint(port) != p {
		return endpoint{}, fmt.Errorf("port %q: want 1 to 65535", p)
	}
	return endpoint{h, port}, nil
}

// checkSocket: the kernel keeps at most 107 bytes of a unix socket's path, and Envoy refuses more.
func checkSocket(path string) error {
	if !filepath.IsAbs(path) || len(path) > 107 {
		return fmt.Errorf("unix socket %q: want an absolute path of at most 107 bytes", path)
	}
	return nil
}

// SystemCA is the path of the system's CA bundle: $SSL_CERT_FILE, else the usual place of the distribution;
// "" where none is found. Envoy reads a file, it has no notion of a system store.
func SystemCA() string {
	for _, p := range []string{
		os.Getenv("SSL_CERT_FILE"),
		"/etc/ssl/certs/ca-certificates.crt", // Debian, Alpine, Arch
		"/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
		"/etc/ssl/ca-bundle.pem",             // openSUSE
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"/etc/ssl/cert.pem", // macOS, BSD
	} {
		if p != "" {
			if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
				return p
			}
		}
	}
	return ""
}

// ListenerName is what Envoy calls the listener of that configured name.
func ListenerName(name string) string { return "in/" + name }
