package main

import (
	"fmt"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatchactions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssnssubscriptions"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// watch is what tells a person: alarms to one topic, and a dashboard.
type watch struct {
	scope constructs.Construct
	name  string
	to    awssns.Topic
}

func newWatch(scope constructs.Construct, c Config, s storage, f functions, b *brokers) {
	scope = part(scope, "Watch")
	w := watch{scope: scope, name: c.Name}
	w.to = awssns.NewTopic(scope, jsii.String("Alarms"), &awssns.TopicProps{EnforceSSL: jsii.Bool(true)})
	suppress(w.to, "AwsSolutions-SNS2", "alarms hold no data of users; CloudWatch can only use a key of the customer's own, which has a price")
	if c.AlarmEmail != "" {
		w.to.AddSubscription(awssnssubscriptions.NewEmailSubscription(jsii.String(c.AlarmEmail), nil))
	}
	output(scope, "Alarms", w.to.TopicArn(), "alarms are told to this topic")
	rows := [][]awscloudwatch.IWidget{w.storage(s), w.functions(c, f)}
	if b != nil {
		rows = append([][]awscloudwatch.IWidget{w.brokers(c, *b)}, rows...)
	}
	awscloudwatch.NewDashboard(scope, jsii.String("Dashboard"), &awscloudwatch.DashboardProps{
		DashboardName: jsii.String(c.Name), Widgets: pointers(rows),
	})
}

// alarm tells when a metric has been at or over a limit for some minutes.
func (w watch) alarm(id, description string, m awscloudwatch.IMetric, limit float64, periods int) {
	w.alarmWhen(id, description, m, limit, periods, false)
}

// alarmWhen is alarm, or tells when a metric has been below the limit, or missing.
func (w watch) alarmWhen(id, description string, m awscloudwatch.IMetric, limit float64, periods int, below bool) {
	op, missing := awscloudwatch.ComparisonOperator_GREATER_THAN_OR_EQUAL_TO_THRESHOLD, awscloudwatch.TreatMissingData_NOT_BREACHING
	if below {
		op, missing = awscloudwatch.ComparisonOperator_LESS_THAN_THRESHOLD, awscloudwatch.TreatMissingData_BREACHING
	}
	awscloudwatch.NewAlarm(w.scope, jsii.String(id), &awscloudwatch.AlarmProps{
		AlarmDescription: jsii.String(w.name + ": " + description), Metric: m, Threshold: jsii.Number(limit),
		EvaluationPeriods: jsii.Number(periods), ComparisonOperator: op, TreatMissingData: missing,
	}).AddAlarmAction(awscloudwatchactions.NewSnsAction(w.to))
}

func (w watch) storage(s storage) []awscloudwatch.IWidget {
	requests := func(name, statistic string) awscloudwatch.IMetric {
		return metric("AWS/S3", name, statistic, map[string]*string{"BucketName": s.bucket.BucketName(), "FilterId": jsii.String("all")}, minute())
	}
	table := func(name string) awscloudwatch.IMetric {
		return metric("AWS/DynamoDB", name, "Sum", map[string]*string{"TableName": s.table.TableName()}, minute())
	}
	operations := []awsdynamodb.Operation{ // those that a broker or a job asks for; errors are counted by operation
		awsdynamodb.Operation_GET_ITEM, awsdynamodb.Operation_QUERY, awsdynamodb.Operation_PUT_ITEM, awsdynamodb.Operation_DELETE_ITEM, awsdynamodb.Operation_TRANSACT_WRITE_ITEMS,
	}
	throttled := s.table.MetricThrottledRequestsForOperations(&awsdynamodb.OperationsMetricOptions{Operations: &operations, Period: minute(), Label: jsii.String("ThrottledRequests")})
	failed := s.table.MetricSystemErrorsForOperations(&awsdynamodb.SystemErrorsForOperationsMetricOptions{Operations: &operations, Period: minute(), Label: jsii.String("SystemErrors")})
	stored := metric("AWS/S3", "BucketSizeBytes", "Average", map[string]*string{"BucketName": s.bucket.BucketName(), "StorageType": jsii.String("StandardStorage")}, minutes(24*60))
	w.alarm("ObjectStoreErrors", "S3 answers with errors of its own; produce waits", requests("5xxErrors", "Sum"), 50, 3)
	w.alarm("TableThrottled", "DynamoDB throttles; commits wait", throttled, 100, 5)
	w.alarm("TableErrors", "DynamoDB answers with errors of its own", failed, 10, 3)
	return []awscloudwatch.IWidget{
		graph("S3 requests", requests("PutRequests", "Sum"), requests("GetRequests", "Sum"), requests("DeleteRequests", "Sum"), requests("ListRequests", "Sum")),
		graph("S3 bytes in and out", requests("BytesUploaded", "Sum"), requests("BytesDownloaded", "Sum")),
		graph("S3 latency to the last byte, ms (p99)", requests("TotalRequestLatency", "p99")),
		graph("DynamoDB", table("ConsumedReadCapacityUnits"), table("ConsumedWriteCapacityUnits"), table("TransactionConflict"), throttled),
		graph("DynamoDB: errors of its own", failed),
		graph("Stored bytes", stored),
	}
}

// functions watches the jobs. A metric of theirs has a value for each run, so an
// alarm looks at some runs: at minutes without one it would never see several in a row.
func (w watch) functions(c Config, f functions) []awscloudwatch.IWidget {
	w.alarm("FunctionsFailed", "runs of a job failed for good; see the queue of failed runs", f.failed.MetricApproximateNumberOfMessagesVisible(nil), 1, 1)
	var errors, durations, shares, unfinished []awscloudwatch.IMetric
	for _, j := range jobs(c) {
		fn, name := f.byName[j.name], j.name
		w.alarm(title(name)+"Errors", name+" fails", fn.MetricErrors(&awscloudwatch.MetricOptions{Period: minutes(j.every)}), 1, 3)
		errors = append(errors, fn.MetricErrors(nil))
		durations = append(durations, fn.MetricDuration(nil))
		share := w.share(name)
		if j.every < 60 {
			w.alarm(title(name)+"Busy", name+" is at work for most of the time: what is produced comes near to what it can do", share, 80, 6)
		}
		shares = append(shares, share)
		w.alarm(title(name)+"Behind", name+" does not keep up: its runs end before the work does",
			metric("Varve", "Unfinished", "Minimum", w.dimensions(name), minutes(max(60, 2*j.every))), 1, 1)
		unfinished = append(unfinished, w.job(name, "Unfinished"))
	}
	return []awscloudwatch.IWidget{
		graph("Jobs: errors", errors...), graph("Jobs: duration, ms", durations...), graph("Jobs: share of the time at work, %: at 100 they keep up no longer", shares...),
		graph("Jobs: runs that ended before the work", unfinished...), graph("Retention: bytes unreferenced, objects deleted", w.job("retention", "RemovedBytes"), w.job("retention", "DeletedObjects")),
		graph("Compaction: bytes that wait, read and written", w.job("compact", "WaitingBytes"), w.job("compact", "ReadBytes"), w.job("compact", "WrittenBytes")),
		graph("Sweep: objects looked at, deleted", w.job("sweep", "LookedAt"), w.job("sweep", "DeletedObjects")),
	}
}

// job is a metric that a function writes with its log.
func (w watch) job(name, metricName string) awscloudwatch.IMetric {
	return metric("Varve", metricName, "Sum", w.dimensions(name), minute())
}

func (w watch) dimensions(job string) map[string]*string {
	return map[string]*string{"Cluster": jsii.String(w.name), "Job": jsii.String(job)}
}

// share is the part of an hour that a job was at work, in percent: what it does
// grows with what is produced.
func (w watch) share(name string) awscloudwatch.IMetric {
	return awscloudwatch.NewMathExpression(&awscloudwatch.MathExpressionProps{
		Expression: jsii.String(fmt.Sprintf("100 * %[1]sSeconds / PERIOD(%[1]sSeconds)", name)), Label: jsii.String(name), Period: awscdk.Duration_Hours(jsii.Number(1)),
		UsingMetrics: &map[string]awscloudwatch.IMetric{name + "Seconds": w.job(name, "Seconds")},
	})
}

func (w watch) brokers(c Config, b brokers) []awscloudwatch.IWidget {
	service := map[string]*string{"ClusterName": b.cluster.ClusterName(), "ServiceName": b.service.ServiceName()}
	running := metric("ECS/ContainerInsights", "RunningTaskCount", "Minimum", service, minute())
	healthy := b.targets.Metrics().HealthyHostCount(&awscloudwatch.MetricOptions{Statistic: jsii.String("Minimum"), Period: minute()})
	often := &awscloudwatch.MetricOptions{Period: minute()}
	cpu, memory := b.service.MetricCpuUtilization(often), b.service.MetricMemoryUtilization(often)
	w.alarmWhen("BrokersMissing", "fewer brokers are ready than there should be", healthy, float64(c.Brokers), 10, true)
	w.alarm("BrokersBusy", "brokers are busy and no more may be added", cpu, 85, 15)
	w.alarm("BrokersMemory", "brokers run out of memory", memory, 90, 5)
	return []awscloudwatch.IWidget{
		graph("Brokers running and ready", running, healthy),
		graph("Brokers: CPU and memory, %", cpu, memory),
		graph("Network of the brokers", metric("ECS/ContainerInsights", "NetworkRxBytes", "Average", service, minute()), metric("ECS/ContainerInsights", "NetworkTxBytes", "Average", service, minute())),
		graph("Bootstrap connections", b.entry.Metrics().ActiveFlowCount(nil), b.entry.Metrics().NewFlowCount(nil)),
	}
}

func metric(namespace, name, statistic string, dimensions map[string]*string, period awscdk.Duration) awscloudwatch.IMetric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String(namespace), MetricName: jsii.String(name), Statistic: jsii.String(statistic), DimensionsMap: &dimensions, Period: period,
	})
}

func minutes(n int) awscdk.Duration { return awscdk.Duration_Minutes(jsii.Number(n)) }

func minute() awscdk.Duration { return minutes(1) }

func graph(title string, metrics ...awscloudwatch.IMetric) awscloudwatch.IWidget {
	return awscloudwatch.NewGraphWidget(&awscloudwatch.GraphWidgetProps{Title: jsii.String(title), Left: &metrics, Width: jsii.Number(6)})
}

func pointers(rows [][]awscloudwatch.IWidget) *[]*[]awscloudwatch.IWidget {
	all := make([]*[]awscloudwatch.IWidget, len(rows))
	for i := range rows {
		all[i] = &rows[i]
	}
	return &all
}
