package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// resolve makes *path absolute, from the directory of the configuration file.
func (c *checker) resolve(path *string) {
	if *path != "" && !filepath.IsAbs(*path) {
		*path = filepath.Join(c.dir, *path)
	}
}

// readable resolves *path to a file and reports if there is none to read.
func (c *checker) readable(at string, path *string) bool {
	if *path == "" {
		return false
	}
	c.resolve(path)
	c.files[*path] = true
	info, err := os.Stat(*path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = errors.New("is not there")
	case err != nil:
		err = reason(err)
	case info.IsDir():
		err = errors.New("is a directory")
	case !info.Mode().IsRegular():
		err = errors.New("is not a regular file")
	default:
		var f *os.File
		if f, err = os.Open(*path); err == nil {
			_ = f.Close()
			return true
		}
		err = reason(err)
	}
	c.fault(at, *path+" "+err.Error(), "name a file that mcpgw can read; a relative path begins at "+c.dir)
	return false
}

func (c *checker) directory(at string, path *string) {
	if *path == "" {
		return
	}
	c.resolve(path)
	c.files[*path] = true
	info, err := os.Stat(*path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.fault(at, *path+" is not there", "name a directory; a relative path begins at "+c.dir)
	case err != nil:
		c.fault(at, *path+": "+reason(err).Error(), "name a directory that mcpgw can read")
	case !info.IsDir():
		c.fault(at, *path+" is not a directory", "name the directory that holds it")
	}
}

// keyPair checks that a certificate and a key are there and belong together.
// The fields are path.cert_file and path.key_file, or the client_ ones.
func (c *checker) keyPair(path string, cert, key *string) {
	prefix := ""
	if c.index.nodes[path+".client_cert_file"] != nil || c.index.nodes[path+".client_key_file"] != nil {
		prefix = "client_"
	}
	certPath, keyPath := path+"."+prefix+"cert_file", path+"."+prefix+"key_file"
	if *cert == "" || *key == "" {
		if prefix != "" { // else the proto's own rules say it
			if *cert != *key {
				c.fault(path, "holds one of client_cert_file and client_key_file", "write both, or none")
			}
		}
		return
	}
	certThere, keyThere := c.readable(certPath, cert), c.readable(keyPath, key)
	if !certThere || !keyThere {
		return
	}
	if _, err := tls.LoadX509KeyPair(*cert, *key); err != nil {
		c.fault(certPath, "certificate and key do not make a pair: "+strings.TrimPrefix(err.Error(), "tls: "), "name a PEM certificate and its own PEM key")
	}
}

func (c *checker) authorities(at string, path *string) {
	if !c.readable(at, path) {
		return
	}
	data, err := readBounded(*path, MaxBytes)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(data) {
		err = errors.New("holds no certificate")
	}
	if err != nil {
		c.fault(at, *path+" "+err.Error(), "name a PEM file of certificates")
	}
}
