package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/engine/peer"
	"github.com/varvelog/varve/internal/catalog"
	"github.com/varvelog/varve/internal/kafka"
)

// maxAPIVersions is the highest version of ApiVersions.
const maxAPIVersions = 4

// ApiVersions (18), versions 0 to 4; v3 has the client's name and version
// (KIP-511). The response's header is always version 0. A version that is not
// known is answered in version 0 with UNSUPPORTED_VERSION and the row of this
// key alone. The features told (KIP-584) are the cluster's own level, and transaction.version, which goes with it
// (KIP-890); there are no newer group protocols. Another broker's request may tell of a change.
func (s *Server) apiVersions(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.ApiVersionsRequest)
	resp := req.ResponseKind().(*kmsg.ApiVersionsResponse)
	if r.Version >= 3 && !(validSoftware(req.ClientSoftwareName) && validSoftware(req.ClientSoftwareVersion)) {
		resp.ErrorCode = int16(kafka.InvalidRequest)
		return resp
	}
	if change, ok := peer.Hinted(req); ok {
		s.o.Catalog.Hint(change)
	}
	for i := range s.table {
		a := &s.table[i]
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = a.key, a.advertised(), a.max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	if r.Version >= 3 {
		s.features(resp)
	}
	return resp
}

// levelFeature names the cluster's feature level among Kafka's features
// (KIP-584), as kafka-features.sh shows them.
const levelFeature = "varve.level"

// txnFeature tells clients that partitions and groups enter a transaction by
// themselves, and that each transaction's end raises the producer's epoch (KIP-890).
const (
	txnFeature = "transaction.version"
	txnVersion = 2
)

// features tells the levels that this program works at, and the cluster's. A feature that may be off, at level 0, is told from
// version 4 on (KIP-1022): the Java clients 3.3 to 3.8, which ask in version 3, fail at it and never connect.
func (s *Server) features(resp *kmsg.ApiVersionsResponse) {
	supported := func(name string, least, most int16) {
		f := kmsg.NewApiVersionsResponseSupportedFeature()
		f.Name, f.MinVersion, f.MaxVersion = name, least, most
		resp.SupportedFeatures = append(resp.SupportedFeatures, f)
	}
	final := func(name string, level int16) {
		f := kmsg.NewApiVersionsResponseFinalizedFeature()
		f.Name, f.MinVersionLevel, f.MaxVersionLevel = name, level, level
		resp.FinalizedFeatures = append(resp.FinalizedFeatures, f)
	}
	supported(levelFeature, catalog.MinLevel, catalog.Level)
	if resp.Version >= 4 {
		supported(txnFeature, 0, txnVersion)
	}
	level := s.o.Catalog.Level()
	if level == 0 { // there is no cluster yet
		return
	}
	final(levelFeature, int16(level))
	if level >= catalog.LevelTxns {
		final(txnFeature, txnVersion)
	}
	resp.FinalizedFeaturesEpoch = s.o.Catalog.Applied()
}

// unsupportedAPIVersions is the answer to a version that is not known.
func unsupportedAPIVersions() kmsg.Response {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.ErrorCode = int16(kafka.UnsupportedVersion)
	k := kmsg.NewApiVersionsResponseApiKey()
	k.ApiKey, k.MinVersion, k.MaxVersion = keyAPIVersions, 0, maxAPIVersions
	resp.ApiKeys = append(resp.ApiKeys, k)
	return resp
}

// validSoftware is the pattern [a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])? of KIP-511.
func validSoftware(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || i == len(s)-1 || c != '-' && c != '.') {
			return false
		}
	}
	return s != ""
}
