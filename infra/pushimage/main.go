// Command pushimage is a Lambda behind a CloudFormation custom resource: it
// pushes the OCI layout that a deployment has uploaded into a repository of
// ECR. It can be run again: what is there already is left alone.
package main

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/aws/aws-lambda-go/cfn"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// maxArchive bounds what is read into memory.
const maxArchive = 256 << 20

func main() { lambda.Start(cfn.LambdaWrap(handle)) }

// handle pushes the image of a created or changed resource. The repository
// goes with its images, so there is nothing to do for a deleted one.
func handle(ctx context.Context, event cfn.Event) (id string, data map[string]any, err error) {
	text := func(name string) string { s, _ := event.ResourceProperties[name].(string); return s }
	id = text("Digest")
	if event.RequestType == cfn.RequestDelete {
		return event.PhysicalResourceID, nil, nil
	}
	conf, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return id, nil, fmt.Errorf("load configuration: %w", err)
	}
	archive, err := fetch(ctx, s3.NewFromConfig(conf), text("Bucket"), text("Key"))
	if err != nil {
		return id, nil, err
	}
	p := pusher{registry: ecr.NewFromConfig(conf), repository: text("Repository")}
	return id, nil, p.push(ctx, archive, id)
}

func fetch(ctx context.Context, client *s3.Client, bucket, key string) (*zip.Reader, error) {
	out, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)})
	if err != nil {
		return nil, fmt.Errorf("get image layout: %w", err)
	}
	defer out.Body.Close()
	b, err := io.ReadAll(io.LimitReader(out.Body, maxArchive+1))
	if err != nil {
		return nil, fmt.Errorf("read image layout: %w", err)
	}
	if len(b) > maxArchive {
		return nil, fmt.Errorf("image layout is over %d bytes", maxArchive)
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, fmt.Errorf("open image layout: %w", err)
	}
	return z, nil
}
