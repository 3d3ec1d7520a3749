import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis


class ReferenceLDA(LinearDiscriminantAnalysis):
    """scikit-learn's LDA (solver "svd"), scaled in every release as it is from 1.9.1 on.

    `scalings_` makes the points' variance within their classes 1 in each direction. Older releases
    divide that variance by points - classes, 1.9.1 by points; the directions are the same.
    """

    def fit(self, features, labels):
        super().fit(features, labels)
        points = features @ self.scalings_
        for label in np.unique(labels):
            points[labels == label] -= points[labels == label].mean(axis=0)
        self.scalings_ /= np.sqrt(np.mean(points**2))
        return self
