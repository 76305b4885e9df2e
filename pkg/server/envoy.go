package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mcpgw/mcpgw/envoy"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/envoyproc"
	"github.com/mcpgw/mcpgw/pkg/xds"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// startup bounds how long Envoy may take to serve.
const startup = 30 * time.Second

// startEnvoy starts the child with a bootstrap that finds us.
func (s *Server) startEnvoy(ctx context.Context, c *config.Config) error {
	binary, err := findEnvoy(ctx, c.Proto)
	if err != nil {
		return err
	}
	for _, l := range c.Proto.Listeners {
		if a, err := config.ParseAddress(l.Address); err == nil && a.Network == "tcp" {
			if err := envoyproc.Free(ctx, a.Address); err != nil {
				return fmt.Errorf("listener %s: %w", l.Name, err)
			}
		}
	}
	b, err := render(c, s.sockets, s.token, false)
	if err != nil {
		return err
	}
	s.envoy, err = envoyproc.Start(s.crew.ctx, envoyproc.Options{
		Binary: binary, Config: b, Dir: filepath.Dir(s.sockets.GRPC), Admin: s.sockets.Admin,
		Concurrency: int(c.Proto.Envoy.GetConcurrency()), DrainTime: c.Proto.Envoy.DrainTime.AsDuration(), Log: s.log.With("component", "envoy"),
	})
	if err == nil {
		close(s.started)
	}
	return err
}

// findEnvoy finds the binary and checks its version.
func findEnvoy(ctx context.Context, c *configv1.Config) (string, error) {
	binary := c.Envoy.GetBinary()
	if binary == "" {
		var err error
		if binary, err = envoyproc.Find(); err != nil {
			return "", err
		}
	}
	return binary, envoyproc.CheckVersion(ctx, binary)
}

// awaitEnvoy returns once Envoy has taken the whole configuration and serves every listener.
func (s *Server) awaitEnvoy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	go func() {
		select {
		case <-s.envoy.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := s.publisher.Synced(ctx); err != nil {
		select {
		case <-s.envoy.Done():
			return s.envoy.Wait()
		default:
			return err
		}
	}
	return s.envoy.Ready(ctx)
}

// warm sends one request through each listener and the egress, all refused: the first entries of an access log that is still
// connecting are lost, so these are.
func (s *Server) warm(ctx context.Context) error {
	bound, err := s.envoy.Admin().Listeners(ctx)
	if err != nil {
		return err
	}
	for name, address := range bound {
		a := config.Address{Network: "tcp", Address: address}
		if filepath.IsAbs(address) {
			a.Network = "unix"
		}
		scheme := "http"
		if l := s.listener(name); l != nil && l.Tls != nil {
			scheme = "https"
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://localhost/", nil)
		if err != nil {
			return err
		}
		resp, err := dial(a).RoundTrip(req)
		if err != nil {
			return fmt.Errorf("listener %s does not answer: %w", name, err)
		}
		_ = resp.Body.Close() // its status is not asked for
	}
	return nil
}

// listener finds the configured listener behind Envoy's name for it.
func (s *Server) listener(envoyName string) *configv1.Listener {
	for _, l := range s.now().config.Proto.Listeners {
		if xds.ListenerName(l.Name) == envoyName {
			return l
		}
	}
	return nil
}

// urls are the endpoints as clients reach them.
func (s *Server) urls(ctx context.Context) string {
	bound := map[string]string{}
	if s.envoy != nil {
		bound, _ = s.envoy.Admin().Listeners(ctx) // the configured addresses do where Envoy does not say
	}
	c := s.now().config.Proto
	var out []string
	for _, l := range c.Listeners {
		base := l.PublicUrl
		if base == "" {
			scheme, address := "http", strings.TrimPrefix(l.Address, "unix:")
			if l.Tls != nil {
				scheme = "https"
			}
			if b := bound[xds.ListenerName(l.Name)]; b != "" {
				address = b
			}
			if filepath.IsAbs(address) {
				out = append(out, address)
				continue
			}
			base = scheme + "://" + address
		}
		for _, e := range c.Endpoints {
			out = append(out, strings.TrimSuffix(base, "/")+e.Path)
		}
	}
	return strings.Join(out, " ")
}

// envoyFailed is closed when Envoy cannot be started any more; never without a child.
func (s *Server) envoyFailed() <-chan struct{} {
	if s.envoy == nil {
		return nil
	}
	return s.envoy.Done()
}

// envoyPID is the child's process id, 0 while there is none. It waits for the child's first start: whoever knocks before is it.
func (s *Server) envoyPID() int {
	select {
	case <-s.started:
		return s.envoy.Pid()
	case <-s.crew.ctx.Done():
		return 0
	}
}

// drain lets streams finish, then ends an Envoy of our own.
func (s *Server) drain() {
	s.draining.Store(true)
	s.broker.Close()
	ctx, cancel := context.WithTimeout(context.Background(), s.now().config.Proto.Envoy.DrainTime.AsDuration())
	defer cancel()
	s.log.Info("draining")
	if s.envoy == nil { // the calls that go by us end; Envoy has all others in hand, and goes on with them without us
		if err := s.slow.Shutdown(ctx); err != nil {
			s.log.Warn("the drain ended early", "error", err)
		}
		return
	}
	if err := s.envoy.Stop(ctx); err != nil {
		s.log.Warn("the drain ended early", "error", err)
	}
}

// validateEnvoy lets an Envoy binary judge a rendered configuration. What was done is told in words.
func validateEnvoy(ctx context.Context, c *config.Config, rendered []byte) (string, error) {
	binary, err := findEnvoy(ctx, c.Proto)
	if err != nil {
		return "configuration and policies; the Envoy configuration was not validated: " + err.Error(), nil //nolint:nilerr // a machine without Envoy may check, too; the words say what was left out
	}
	return "configuration, policies, and the Envoy configuration by Envoy " + envoy.Version(), envoyproc.Validate(ctx, binary, rendered)
}

// collectorTLS is how spans travel to a collector that wants TLS.
func collectorTLS(t *configv1.OTLPTLS) (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	var err error
	c.RootCAs, _, err = authorities("telemetry.otlp.tls.ca_file", t.CaFile)
	return c, err
}

// authorities reads the certificates of a field's file; none where none is named, which means those of the system.
func authorities(field, file string) (pool *x509.CertPool, pem []byte, err error) {
	if file == "" {
		return nil, nil, nil
	}
	if pem, err = os.ReadFile(file); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", field, err)
	}
	pool = x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("%s: %s holds no certificate", field, file)
	}
	return pool, pem, nil
}
