package xds

import (
	"path/filepath"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// Secret names: one a listener's certificate, one a server's client certificate, one a credential header.
func listenerSecret(l Listener) string { return "listener/" + l.Name }
func clientSecret(s Server) string     { return "client/" + s.Name }
func credentialSecret(s Server, c Credential) string {
	return "credential/" + s.Name + "/" + strings.ToLower(c.Header)
}

// secret refers to a secret: by name in a static file, else by SDS. A cluster waits for its secrets, and
// holds back the acknowledgement of its whole push while it does; so the wait is short.
func (b *builder) secret(name string) *tlsv3.SdsSecretConfig {
	c := &tlsv3.SdsSecretConfig{Name: name}
	if !b.static {
		c.SdsConfig = ads()
		c.SdsConfig.InitialFetchTimeout = duration(2 * time.Second)
	}
	return c
}

func (b *builder) clientCert(s Server) *tlsv3.SdsSecretConfig {
	if s.TLS.ClientCertFile == "" {
		return nil
	}
	return b.secret(clientSecret(s))
}

// secrets are all secrets of the world.
func (b *builder) secrets() []*tlsv3.Secret {
	var all []*tlsv3.Secret
	for _, l := range b.Listeners {
		if l.TLS == nil {
			continue
		}
		if len(l.TLS.Cert) > 0 && !b.static {
			all = append(all, pair(listenerSecret(l), inline(l.TLS.Cert), inline(l.TLS.Key)))
			continue
		}
		all = append(all, b.pairFiles(listenerSecret(l), l.TLS.CertFile, l.TLS.KeyFile))
	}
	for _, s := range b.Servers {
		if s.TLS.ClientCertFile != "" {
			all = append(all, b.pairFiles(clientSecret(s), s.TLS.ClientCertFile, s.TLS.ClientKeyFile))
		}
		for _, c := range s.Credentials {
			all = append(all, &tlsv3.Secret{
				Name: credentialSecret(s, c),
				Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: c.source()}},
			})
		}
	}
	for _, s := range all {
		b.valid(s)
	}
	return all
}

func (c Credential) source() *corev3.DataSource {
	switch {
	case c.File != "":
		return file(c.File)
	case c.Env != "":
		return &corev3.DataSource{Specifier: &corev3.DataSource_EnvironmentVariable{EnvironmentVariable: c.Env}}
	}
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: c.Value}}
}

func pair(name string, cert, key *corev3.DataSource) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: cert, PrivateKey: key}}}
}

// pairFiles names the files; Envoy reads them again when a file is moved into the folder of the certificate.
// A static secret is read once.
func (b *builder) pairFiles(name, cert, key string) *tlsv3.Secret {
	s := pair(name, file(cert), file(key))
	if !b.static {
		s.GetTlsCertificate().WatchedDirectory = &corev3.WatchedDirectory{Path: filepath.Dir(cert)}
	}
	return s
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
