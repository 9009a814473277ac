package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/varvelog/varve/internal/kafka"
)

// ApiVersions, versions 0 to 4; v3 has the client's name and version (KIP-511).
// The response's header is always version 0. A version that is not known is
// answered in version 0 with UNSUPPORTED_VERSION and the row of this key alone.
func (s *Server) apiVersions(_ context.Context, r *request) kmsg.Response {
	req := r.msg.(*kmsg.ApiVersionsRequest)
	resp := req.ResponseKind().(*kmsg.ApiVersionsResponse)
	if r.Version >= 3 && !(validSoftware(req.ClientSoftwareName) && validSoftware(req.ClientSoftwareVersion)) {
		resp.ErrorCode = int16(kafka.InvalidRequest)
		return resp
	}
	for _, a := range s.table {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = a.key, a.min, a.max
		if k.ApiKey == keyProduce {
			k.MinVersion = 0 // see Produce
		}
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	return resp
}

func unsupportedAPIVersions() kmsg.Response {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.ErrorCode = int16(kafka.UnsupportedVersion)
	k := kmsg.NewApiVersionsResponseApiKey()
	k.ApiKey, k.MinVersion, k.MaxVersion = keyAPIVersions, 0, 4
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
