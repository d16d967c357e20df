package dbpool

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// application_name of a leased connection is queueville/<cluster>/<host>/<epoch>/<role>: at most 62 of PostgreSQL's 63 bytes. The epoch
// alone identifies the lease; the rest is for people, and a second and third check before a backend is ended.
const (
	clusterBytes = 12
	hostBytes    = 14
	epochBytes   = 10
	roleBytes    = 12

	childRoleBytes = 7  // a point and a number of up to 4 digits follow
	longHostBytes  = 64 // in the ledger, for people
	appPrefix      = "queueville/"
	pooledPrefix   = "queueville-pooled/" // behind PgBouncer, whose server connections carry a client's name longer than the client lives
)

// part makes s fit for a part of application_name: letters, digits and ._~- only, and not longer than limit. A name that had to be changed
// ends with a hash of itself, so two different names stay different.
func part(s string, limit int) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '~', r == '-':
			return r
		}
		return '_'
	}, s)
	if clean == s && s != "" && len(s) <= limit {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	const hash = 6
	return clean[:min(len(clean), limit-hash-1)] + "~" + hex.EncodeToString(sum[:])[:hash]
}

// leaseName is application_name of a lease's connections; pooled says that they lead to PgBouncer.
func leaseName(cluster, host, epoch, role string, pooled bool) string {
	prefix := appPrefix
	if pooled {
		prefix = pooledPrefix
	}
	return prefix + cluster + "/" + part(host, hostBytes) + "/" + epoch + "/" + part(role, roleBytes)
}

// clusterPrefix is what the names of all direct connections of a cluster begin with.
func clusterPrefix(cluster string) string { return appPrefix + cluster + "/" }

// parseName takes a leaseName of the cluster apart.
func parseName(cluster, name string) (host, epoch, role string, ok bool) {
	rest, ok := strings.CutPrefix(name, clusterPrefix(cluster))
	if !ok {
		return "", "", "", false
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 || len(parts[1]) != epochBytes {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}
