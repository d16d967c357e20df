package throwaway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// initFlags go to initdb. Small WAL segments keep a copy of the template cheap.
var initFlags = []string{
	"--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--wal-segsize=1", "--no-instructions",
}

// makeCluster makes a database cluster in data: a copy of a template kept in the user's cache directory, which saves most of initdb's
// second, or without a cache directory initdb itself. It returns the superuser's password, random per template.
func makeCluster(ctx context.Context, bin, data string, cred *syscall.Credential) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return initCluster(ctx, bin, data, cred)
	}
	version, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask postgres for its version: %w", err)
	}
	sum := sha256.Sum256([]byte(string(version) + strings.Join(initFlags, " ")))
	template := filepath.Join(cache, "queueville", "initdb-"+hex.EncodeToString(sum[:8]))
	if password, err := os.ReadFile(filepath.Join(template, "password")); err == nil {
		if err := copyTree(filepath.Join(template, "data"), data, cred); err != nil {
			return "", err
		}
		return string(password), nil
	}
	password, err := initCluster(ctx, bin, data, cred)
	if err != nil {
		return "", err
	}
	// A cache that cannot be written costs a second each time and nothing else.
	_ = saveTemplate(template, data, password)
	return password, nil
}

// initCluster runs initdb.
func initCluster(ctx context.Context, bin, data string, cred *syscall.Credential) (string, error) {
	password := rand.Text()
	pwfile := data + ".password"
	if err := os.WriteFile(pwfile, []byte(password), 0o600); err != nil {
		return "", fmt.Errorf("write password file: %w", err)
	}
	defer os.Remove(pwfile) //nolint:errcheck // the whole directory goes at the end
	if cred != nil {
		if err := os.Chown(pwfile, int(cred.Uid), int(cred.Gid)); err != nil {
			return "", fmt.Errorf("write password file: %w", err)
		}
	}
	args := append([]string{"--pgdata=" + data, "--pwfile=" + pwfile}, initFlags...)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), args...)
	cmd.Dir = filepath.Dir(data)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("run initdb: %w\n%s", err, bytes.TrimSpace(out))
	}
	return password, nil
}

// saveTemplate puts a fresh cluster into the cache: made beside its place and renamed, so that of several at once one wins whole.
func saveTemplate(template, data, password string) error {
	if err := os.MkdirAll(filepath.Dir(template), 0o700); err != nil {
		return fmt.Errorf("save template: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(template), "initdb-new-")
	if err != nil {
		return fmt.Errorf("save template: %w", err)
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // gone after the rename
	if err := copyTree(data, filepath.Join(tmp, "data"), nil); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "password"), []byte(password), 0o600); err != nil {
		return fmt.Errorf("save template: %w", err)
	}
	if err := os.Rename(tmp, template); err != nil {
		return fmt.Errorf("save template: %w", err)
	}
	return nil
}

// copyTree copies directories and regular files, for their owner alone, and gives them to cred.
func copyTree(from, to string, cred *syscall.Credential) error {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			err = os.Mkdir(target, 0o700)
		case d.Type().IsRegular():
			err = copyFile(path, target)
		default:
			return fmt.Errorf("%s is neither file nor directory", path)
		}
		if err == nil && cred != nil {
			err = os.Lchown(target, int(cred.Uid), int(cred.Gid))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("copy cluster: %w", err)
	}
	return nil
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
