// Package synthca makes a throwaway certificate authority and server certificates, for tests and the demo. Keys are ECDSA P-256, made
// anew by each New and kept in memory only. It starts no goroutines and touches no files.
package synthca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"time"
)

// CA is a certificate authority. Its methods may be called from several goroutines at once.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	// leafKey is one key for all leaves: making one costs more than the rest of a certificate, and the demo wants thousands.
	leafKey *ecdsa.PrivateKey
}

// New makes an authority that is valid for ten years around now, so that leaves can be expired or not yet valid under it.
func New() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make leaf key: %w", err)
	}
	now := time.Now()
	template, err := newTemplate("Queueville throwaway CA", now.AddDate(-5, 0, 0), now.AddDate(5, 0, 0))
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read CA certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &CA{cert: cert, key: key, pool: pool, leafKey: leafKey}, nil
}

// Pool returns the roots for whoever talks to servers with this authority's certificates.
func (ca *CA) Pool() *x509.CertPool { return ca.pool }

// PEM returns the authority's certificate, for programs that read roots from a file.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Leaf returns a server certificate for a DNS name or an IP address, valid between the two times.
func (ca *CA) Leaf(name string, notBefore, notAfter time.Time) (tls.Certificate, error) {
	return ca.leaf([]string{name}, notBefore, notAfter)
}

// LeafFor returns a server certificate for DNS names and IP addresses, valid from an hour ago for a day.
func (ca *CA) LeafFor(names ...string) (tls.Certificate, error) {
	now := time.Now()
	return ca.leaf(names, now.Add(-time.Hour), now.Add(24*time.Hour))
}

func (ca *CA) leaf(names []string, notBefore, notAfter time.Time) (tls.Certificate, error) {
	if len(names) == 0 {
		return tls.Certificate{}, fmt.Errorf("make leaf certificate: no name")
	}
	template, err := newTemplate(names[0], notBefore, notAfter)
	if err != nil {
		return tls.Certificate{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range names {
		if addr, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &ca.leafKey.PublicKey, ca.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make leaf certificate for %s: %w", names[0], err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read leaf certificate for %s: %w", names[0], err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: ca.leafKey, Leaf: parsed}, nil
}

func newTemplate(name string, notBefore, notAfter time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: notBefore, NotAfter: notAfter}, nil
}
