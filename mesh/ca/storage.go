package ca

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Material is what makes an authority, in PEM.
type Material struct {
	Cert  []byte // of the root that signs
	Key   []byte // of that root
	Roots []byte // all that are trusted, the one that signs among them
}

// Storage keeps the material of an authority, so that it outlives a restart
// and is the same for all replicas.
type Storage interface {
	// Load returns what is kept, or an error that is [fs.ErrNotExist].
	Load(ctx context.Context) (Material, error)
	// Create keeps m, or returns an error that is [fs.ErrExist] if there is
	// something already.
	Create(ctx context.Context, m Material) error
}

// Dir keeps the material in one file of a directory, which only its owner can
// read, and a copy of the roots beside it, for everybody.
type Dir string

// The files of a [Dir].
const (
	AuthorityFile = "mesh-ca.pem"
	RootsFile     = "mesh-roots.pem"
)

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
	pemRequest     = "CERTIFICATE REQUEST"
)

// Load implements [Storage].
func (d Dir) Load(context.Context) (Material, error) {
	b, err := os.ReadFile(filepath.Join(string(d), AuthorityFile))
	if err != nil {
		return Material{}, fmt.Errorf("certificate authority: %w", err)
	}
	var m Material
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		switch text := pem.EncodeToMemory(block); {
		case block.Type == pemKey:
			m.Key = text
		case m.Cert == nil:
			m.Cert, m.Roots = text, text
		default:
			m.Roots = append(bytes.Clone(m.Roots), text...)
		}
	}
	// The copy may be missing if the process died between the two files.
	if err := os.WriteFile(filepath.Join(string(d), RootsFile), m.Roots, 0o644); err != nil {
		return Material{}, fmt.Errorf("certificate authority: %w", err)
	}
	return m, nil
}

// Create implements [Storage]. The file appears whole or not at all.
func (d Dir) Create(_ context.Context, m Material) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("certificate authority: %w", err)
		}
	}()
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(string(d), AuthorityFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	others := bytes.Replace(m.Roots, m.Cert, nil, 1)
	_, err = tmp.Write(bytes.Join([][]byte{m.Cert, others, m.Key}, nil))
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, does not replace what another process made.
	if err := os.Link(tmp.Name(), filepath.Join(string(d), AuthorityFile)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(string(d), RootsFile), m.Roots, 0o644)
}

// SecretStorage keeps the material in a Secret of a cluster.
type SecretStorage struct {
	Client    kubernetes.Interface
	Namespace string
	Name      string
}

// The keys of a [SecretStorage]'s Secret; roots are what others trust.
const (
	secretCert  = corev1.TLSCertKey
	secretKey   = corev1.TLSPrivateKeyKey
	secretRoots = "ca.crt"
)

// Load implements [Storage].
func (s SecretStorage) Load(ctx context.Context) (Material, error) {
	got, err := s.Client.CoreV1().Secrets(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return Material{}, fmt.Errorf("certificate authority: Secret %s/%s: %w", s.Namespace, s.Name, fs.ErrNotExist)
	case err != nil:
		return Material{}, fmt.Errorf("certificate authority: %w", err)
	}
	return Material{Cert: got.Data[secretCert], Key: got.Data[secretKey], Roots: got.Data[secretRoots]}, nil
}

// Create implements [Storage].
func (s SecretStorage) Create(ctx context.Context, m Material) error {
	_, err := s.Client.CoreV1().Secrets(s.Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{secretCert: m.Cert, secretKey: m.Key, secretRoots: m.Roots},
	}, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("certificate authority: Secret %s/%s: %w", s.Namespace, s.Name, fs.ErrExist)
	case err != nil:
		return fmt.Errorf("certificate authority: %w", err)
	}
	return nil
}
