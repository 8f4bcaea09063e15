package ca

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sluicenet/sluice/mesh/spiffe"
	"github.com/sluicenet/sluice/model"
)

// Audience is that of the service account tokens that the authority accepts on
// a cluster.
const Audience = "sluice-ca"

// SecretTokens accepts the tokens in the model's Secrets of type
// kubernetes.io/service-account-token, for a directory of manifests, where no
// API server issues or reviews tokens.
type SecretTokens struct{ Store *model.Store }

// Authenticate implements [Authenticator]. All Secrets are compared, each in
// constant time, so that the time taken says nothing about any of them.
func (a SecretTokens) Authenticate(_ context.Context, token string) (spiffe.ID, error) {
	given := sha256.Sum256([]byte(token))
	var found spiffe.ID
	for s := range model.Secrets.All(a.Store.Snapshot()) {
		have := s.Data[corev1.ServiceAccountTokenKey]
		if s.Type != corev1.SecretTypeServiceAccountToken || len(have) == 0 {
			continue
		}
		sum := sha256.Sum256(have)
		if subtle.ConstantTimeCompare(given[:], sum[:]) == 1 {
			found = spiffe.ID{Namespace: s.Namespace, ServiceAccount: s.Annotations[corev1.ServiceAccountNameKey]}
		}
	}
	if found.ServiceAccount == "" {
		return spiffe.ID{}, errors.New("the token is in no Secret of a service account")
	}
	return found, nil
}

// TokenReviews accepts what the cluster's API server says is a service
// account's token for [Audience].
type TokenReviews struct{ Client kubernetes.Interface }

// Authenticate implements [Authenticator].
func (a TokenReviews) Authenticate(ctx context.Context, token string) (spiffe.ID, error) {
	got, err := a.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{Audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return spiffe.ID{}, fmt.Errorf("the token could not be reviewed: %w", err)
	}
	// An API server that knows nothing of audiences returns none, and then
	// the token may have been meant for somebody else.
	if !got.Status.Authenticated || !slices.Contains(got.Status.Audiences, Audience) {
		return spiffe.ID{}, fmt.Errorf("the token is not valid for %s: %s", Audience, got.Status.Error)
	}
	name, ok := strings.CutPrefix(got.Status.User.Username, "system:serviceaccount:")
	ns, sa, two := strings.Cut(name, ":")
	if !ok || !two {
		return spiffe.ID{}, fmt.Errorf("the token is of %q, which is no service account", got.Status.User.Username)
	}
	return spiffe.ID{Namespace: ns, ServiceAccount: sa}, nil
}
