package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

const (
	maxKeySet    = 1 << 20          // bytes of a key set
	fetchTimeout = 10 * time.Second // of one fetch, redirects included
	maxRedirects = 3
)

// guard decides where a key set may be fetched from. A URL that names this machine stays on it, with http or https; every other
// URL is https and leads to public addresses alone, unless private ones are allowed. Addresses are judged when they are dialled,
// after the name was resolved, so that neither a redirect nor a DNS answer leads to a metadata service or an inner host.
type guard struct {
	loopback bool // the configured URL names this machine
	private  bool // RFC 1918 and RFC 4193 addresses are allowed
}

// newGuard judges the configured URL.
func newGuard(raw string, private bool) (guard, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return guard{}, errors.New("not a URL")
	}
	g := guard{loopback: isLoopback(u.Hostname()), private: private}
	return g, g.url(u)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func (g guard) url(u *url.URL) error {
	switch {
	case u.Hostname() == "" || u.User != nil:
		return errors.New("want https://host/path, without user or password")
	case g.loopback && !isLoopback(u.Hostname()):
		return fmt.Errorf("%s is not on this machine, as the configured URL is", u.Host)
	case u.Scheme == "https" || g.loopback && u.Scheme == "http":
		return nil
	}
	return errors.New("want https (http is for loopback hosts alone)")
}

// Ranges that netip's own predicates leave open: shared address space (RFC 6598), protocol assignments (RFC 6890), benchmarking
// (RFC 2544), reserved (RFC 1112), "this network", the forms that carry an IPv4 address inside (NAT64, 6to4, Teredo), site-local.
var closed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("fec0::/10"),
	// Metadata services of clouds outside the link-local range: AWS over IPv6, Azure.
	netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("168.63.129.16/32"),
}

// allows judges an address that is about to be dialled.
func (g guard) allows(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if g.loopback {
		return a.IsLoopback()
	}
	if !a.IsGlobalUnicast() || a.IsPrivate() && !g.private {
		return false
	}
	for _, p := range closed {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

func (g guard) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if !g.allows(ap.Addr()) {
		return fmt.Errorf("address %s is not allowed", ap.Addr())
	}
	return nil
}

// client is an HTTP client that goes nowhere else. It uses no proxy, which would resolve names where the guard cannot see it.
func (g guard) client() *http.Client {
	return &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: fetchTimeout, Control: g.control}).DialContext,
			TLSHandshakeTimeout:    fetchTimeout,
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true, // minutes lie between two fetches
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			return g.url(r.URL)
		},
	}
}

// fetch gets a key set's text.
func fetch(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return readAll(resp.Body)
}

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKeySet+1))
	if err == nil && len(b) > maxKeySet {
		err = fmt.Errorf("larger than %d bytes", maxKeySet)
	}
	return b, err
}
